//! Runs the commands of a [`Redis`], and sends those again that a node of a cluster has refused without having run them.

use std::{io, slice, time::Duration};

use redis::{
    Cmd, Pipeline, RedisError, RedisResult, ScriptInvocation, Value,
    aio::{ConnectionLike, MultiplexedConnection},
};

use super::{
    Redis, RedisPlace,
    inner::{Ran, SharedConnection},
    observed::ConnectionVerdict,
    refusal::Refusal,
};
use crate::{error::is_no_script, limits::REROUTE_PATIENCE};

impl Redis {
    /// Runs commands on one connection, and returns its number with the replies. Those that a node of a cluster has refused
    /// are sent again.
    pub(super) async fn run_pipeline(
        &self,
        pipeline: &Pipeline,
        offset: usize,
        count: usize,
    ) -> (u64, RedisResult<Vec<Value>>) {
        let all = async |mut connection: MultiplexedConnection| {
            connection.req_packed_commands(pipeline, offset, count).await
        };
        let (router, at) = match &self.place {
            RedisPlace::Server(shared) => {
                let ran = self.judge(shared, shared.run(all).await, Vec::as_slice);
                return (ran.generation, ran.result);
            }
            RedisPlace::Slot(router, at) => (router, *at),
        };
        let mut target = match router.owner(at).await {
            Ok(owner) => owner,
            Err(error) => return (0, Err(self.judge_error(error))),
        };
        let mut ran = router.server(&target).run(all).await;
        let mut reroute = None;
        while let Ok(values) = &mut ran.result {
            let refused = |(index, value)| Some((index, Refusal::of_value(value, &target)?));
            let refused: Vec<(usize, Refusal)> =
                values.iter().enumerate().filter_map(refused).collect();
            let Some((_, refusal)) = refused.first().cloned() else { break };
            let reroute = reroute.get_or_insert_with(|| router.reroute(at, self.patience()));
            let Some((next, is_asking)) = reroute.next(refusal, &target).await else { break };
            target = next;
            let commands: Vec<&Cmd> = pipeline.cmd_iter().collect();
            let again =
                Self::again(refused.iter().map(|(index, _)| commands[offset + index]), is_asking);
            let send = async |mut connection: MultiplexedConnection| {
                connection.req_packed_commands(&again, 0, again.len()).await
            };
            let Ran { generation, took, result } = router.server(&target).run(send).await;
            match result {
                Ok(answers) => {
                    let answers = answers.into_iter().skip(usize::from(is_asking));
                    let answers = answers.step_by(1 + usize::from(is_asking));
                    refused
                        .iter()
                        .zip(answers)
                        .for_each(|((index, _), value)| values[*index] = value);
                    (ran.generation, ran.took) = (generation, ran.took + took);
                }
                Err(error) => ran = Ran { generation, took, result: Err(error) },
            }
        }
        self.observed.handle_answered(ran.took, ran.result.as_ref().map(Vec::as_slice));
        (ran.generation, ran.result)
    }

    pub(super) async fn run_command(&self, command: &Cmd) -> RedisResult<Value> {
        let one = async |mut connection: MultiplexedConnection| {
            connection.req_packed_command(command).await
        };
        let (router, at) = match &self.place {
            RedisPlace::Server(shared) => {
                return self.judge(shared, shared.run(one).await, slice::from_ref).result;
            }
            RedisPlace::Slot(router, at) => (router, *at),
        };
        let mut target = router.owner(at).await.map_err(|error| self.judge_error(error))?;
        let mut ran = router.server(&target).run(one).await;
        let mut reroute = None;
        while let Some(refusal) = Refusal::of_reply(&ran.result, &target) {
            let reroute = reroute.get_or_insert_with(|| router.reroute(at, self.patience()));
            let Some((next, is_asking)) = reroute.next(refusal, &target).await else { break };
            target = next;
            let again = Self::again([command], is_asking);
            let send = async |mut connection: MultiplexedConnection| {
                let answers = connection.req_packed_commands(&again, 0, again.len()).await?;
                answers
                    .into_iter()
                    .next_back()
                    .ok_or_else(|| io::Error::from(io::ErrorKind::UnexpectedEof).into())
            };
            ran = router.server(&target).run(send).await;
        }
        self.observed.handle_answered(ran.took, ran.result.as_ref().map(slice::from_ref));
        ran.result
    }

    /// Runs a command that calls a script by its digest, and loads the script if Redis does not have it yet.
    pub(super) async fn run_script(
        &self,
        command: &Cmd,
        script: &ScriptInvocation<'_>,
    ) -> RedisResult<Value> {
        let answer = async || match self.run_command(command).await? {
            error @ Value::ServerError(_) => error.extract_error(),
            reply => Ok(reply),
        };
        match answer().await {
            Err(error) if is_no_script(&error) => {
                self.load(script).await?;
                answer().await
            }
            reply => reply,
        }
    }

    /// Loads a script: in a cluster also on the node to which the slot is being moved.
    ///
    /// # Errors
    /// [`RedisError`] if the server fails.
    pub(crate) async fn load(&self, script: &ScriptInvocation<'_>) -> RedisResult<()> {
        let connected = async |connection: MultiplexedConnection| Ok(connection);
        let server = match &self.place {
            RedisPlace::Server(shared) => shared.clone(),
            RedisPlace::Slot(router, at) => {
                if let Some(asked) = router.last_asked(*at)
                    && let Ok(mut connection) = router.server(&asked).run(connected).await.result
                {
                    // It may have left the cluster.
                    let _ = script.load_async(&mut connection).await;
                }
                router.server(&router.owner(*at).await?)
            }
        };
        script.load_async(&mut server.run(connected).await.result?).await.map(drop)
    }

    /// Returns commands to be sent again, in one pipeline with ASKING before each if the slot is still on its way.
    pub(crate) fn again<'a>(
        commands: impl IntoIterator<Item = &'a Cmd>,
        is_asking: bool,
    ) -> Pipeline {
        let mut pipeline = redis::pipe();
        for command in commands {
            if is_asking {
                pipeline.cmd("ASKING");
            }
            pipeline.add_command(command.clone());
        }
        pipeline
    }

    /// Returns how long commands are sent again: while it is known that this Redis is down, no one waits.
    pub(super) fn patience(&self) -> Duration {
        if self.health().problem().is_some() { Duration::ZERO } else { REROUTE_PATIENCE }
    }

    /// Takes the replies of a server, and leaves one that is the wrong one.
    fn judge<T>(
        &self,
        shared: &SharedConnection,
        ran: Ran<T>,
        answers: impl FnOnce(&T) -> &[Value],
    ) -> Ran<T> {
        match self.observed.handle_answered(ran.took, ran.result.as_ref().map(answers)) {
            ConnectionVerdict::WrongServer => shared.drop_wrong_server(ran.generation),
            ConnectionVerdict::Good | ConnectionVerdict::Lost => {}
        }
        ran
    }

    pub(super) fn judge_error(&self, error: RedisError) -> RedisError {
        self.observed.handle_answered(Duration::ZERO, Err(&error));
        error
    }
}
