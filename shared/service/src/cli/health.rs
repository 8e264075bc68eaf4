//! `health`: asks the running service whether it is healthy, for probes in a container without a shell.

use std::time::Duration;

use anyhow::{Context, bail};
use serde_json::Value;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
    time::timeout,
};

use super::output::print;

/// For the whole answer; Docker and Kubernetes wait 30 s and 1 s unless told otherwise.
const HEALTH_TIMEOUT: Duration = Duration::from_millis(900);
/// Bytes of an answer: a few headers and an error of one line.
const ANSWER_BYTES_MAX: u64 = 16 * 1024;

/// Prints `ok` if `GET /healthz` of the service on this machine answers so.
///
/// # Errors
/// If there is no answer within 0.9 s, or another one; if `admin_listen` is empty.
pub async fn health(admin_listen: &str) -> anyhow::Result<()> {
    if admin_listen.is_empty() {
        bail!("the setting admin_listen is empty, so the service cannot be asked");
    }
    let address = local_address(admin_listen);
    let answer = timeout(HEALTH_TIMEOUT, ask(&address))
        .await
        .with_context(|| format!("no answer from {address} in {} ms", HEALTH_TIMEOUT.as_millis()))?
        .with_context(|| format!("no answer from {address}"))?;
    match unhealthy(&answer) {
        None => print("ok\n")?,
        Some(problem) => bail!("{address}: {problem}"),
    }
    Ok(())
}

/// Returns the address at which this machine reaches a listener: the loopback for one on all addresses.
pub fn local_address(listen: &str) -> String {
    match listen.rsplit_once(':') {
        Some(("0.0.0.0", port)) => format!("127.0.0.1:{port}"),
        Some(("[::]", port)) => format!("[::1]:{port}"),
        _ => listen.to_owned(),
    }
}

async fn ask(address: &str) -> std::io::Result<String> {
    let mut connection = TcpStream::connect(address).await?;
    let request = format!("GET /healthz HTTP/1.1\r\nHost: {address}\r\nConnection: close\r\n\r\n");
    connection.write_all(request.as_bytes()).await?;
    let mut answer = Vec::new();
    connection.take(ANSWER_BYTES_MAX).read_to_end(&mut answer).await?;
    Ok(String::from_utf8_lossy(&answer).into_owned())
}

/// Returns what is wrong, from a whole HTTP answer.
fn unhealthy(answer: &str) -> Option<String> {
    let (head, body) = answer.split_once("\r\n\r\n").unwrap_or((answer, ""));
    let status = head.lines().next().and_then(|line| line.strip_prefix("HTTP/1.1 "));
    match (status, body) {
        (Some("200 OK"), "ok\n") => None,
        (Some(status), body) => {
            let error: Option<Value> = serde_json::from_str(body).ok();
            let message = error.as_ref().and_then(|error| error["message"].as_str());
            Some(message.map_or_else(|| format!("unexpected answer, {status}"), str::to_owned))
        }
        (None, _) => Some("unexpected answer; is it another service?".to_owned()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_the_answer_of_a_healthy_service_is_healthy() {
        let headers = "content-length: 3\r\n\r\n";
        assert_eq!(unhealthy(&format!("HTTP/1.1 200 OK\r\n{headers}ok\n")), None);
        for (answer, problem) in [
            (format!("HTTP/1.1 200 OK\r\n{headers}<html>"), "unexpected answer, 200 OK"),
            (format!("HTTP/1.1 404 Not Found\r\n{headers}"), "unexpected answer, 404 Not Found"),
            (
                format!(
                    "HTTP/1.1 503 Service Unavailable\r\n{headers}{{\"message\":\"no progress\"}}"
                ),
                "no progress",
            ),
            (String::new(), "unexpected answer; is it another service?"),
            ("+PONG\r\n".to_owned(), "unexpected answer; is it another service?"),
        ] {
            assert_eq!(unhealthy(&answer).as_deref(), Some(problem), "{answer}");
        }
    }

    #[test]
    fn a_listener_on_all_addresses_is_reached_on_the_loopback() {
        assert_eq!(local_address("0.0.0.0:9464"), "127.0.0.1:9464");
        assert_eq!(local_address("[::]:9464"), "[::1]:9464");
        assert_eq!(local_address("10.0.0.0:9464"), "10.0.0.0:9464");
    }
}
