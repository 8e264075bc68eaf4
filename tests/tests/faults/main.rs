//! Faults and attacks: what must hold when something breaks.

mod chaos;
mod error_causes;
mod hostile;
mod outages;
mod recovery;
mod rollback;
