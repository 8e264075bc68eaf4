//! Two real agents with one identity.
