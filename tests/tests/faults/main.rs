//! What holds when something breaks, and under attack.

mod chaos;
mod error_causes;
mod hostile;
mod outages;
mod recovery;
mod rollback;
