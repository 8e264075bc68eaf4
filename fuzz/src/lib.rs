//! The bodies of the fuzz targets. The same bodies run as properties in `tests/tests/cost/fuzz.rs`.

pub mod bodies;
