//! What the replies of a Redis say about it: its metrics and its health.

use std::{slice, sync::Arc, time::Duration};

use redis::{RedisError, Value};

use crate::{
    StoreError,
    error::{is_lost, is_no_script},
    health::{Health, HealthSubject},
    stats::RedisStats,
};

/// The metrics and the health of a [`Redis`](super::Redis).
pub(super) struct Observed {
    pub(super) stats: Arc<RedisStats>,
    pub(super) health: Health,
}

/// What a reply says about its connection.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum ConnectionVerdict {
    /// It can be used.
    Good,
    /// Its server is the wrong one.
    WrongServer,
    /// It is broken.
    Lost,
}

impl Observed {
    pub(super) fn new(stats: Arc<RedisStats>, subject: HealthSubject) -> Self {
        Self { stats, health: Health::new(subject) }
    }

    /// Takes the replies to commands that were sent together.
    pub(super) fn handle_answered(
        &self,
        took: Duration,
        answered: Result<&[Value], &RedisError>,
    ) -> ConnectionVerdict {
        let values = match answered {
            Ok(values) => values,
            Err(error) => return self.handle_error(error),
        };
        self.stats.handle_answers(took);
        let is_error = |value: &&Value| matches!(value, Value::ServerError(_));
        // The answers of a script for many clients are in its one reply.
        let each = values.iter().flat_map(|value| match value {
            Value::Array(parts) => parts.as_slice(),
            other => slice::from_ref(other),
        });
        let errors = each.filter(is_error).filter_map(|value| value.clone().extract_error().err());
        let mut verdict = ConnectionVerdict::Good;
        for error in errors {
            if self.handle_error(&error) == ConnectionVerdict::WrongServer {
                verdict = ConnectionVerdict::WrongServer;
            }
        }
        verdict
    }

    /// A script that has to be loaded first is not an error.
    fn handle_error(&self, error: &RedisError) -> ConnectionVerdict {
        if is_no_script(error) {
            return ConnectionVerdict::Good;
        }
        let store_error = StoreError::from(error.clone());
        self.stats.handle_error(&store_error);
        self.health.handle_error(&store_error);
        match store_error.is_wrong_server() {
            true => ConnectionVerdict::WrongServer,
            false if is_lost(error) => ConnectionVerdict::Lost,
            false => ConnectionVerdict::Good,
        }
    }
}
