//! What the fuzz targets run. The same bodies run as properties in `tests/tests/fuzz`.

pub mod bodies;
