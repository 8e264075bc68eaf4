use std::time::Instant;

use futures_util::{SinkExt, StreamExt, stream};
use rand::{Rng, SeedableRng, rngs::StdRng};
use tokio::io::{AsyncReadExt, AsyncWriteExt, DuplexStream};
use tokio_tungstenite::tungstenite::Bytes;

use super::*;

fn binary(length: usize, byte: u8) -> Message {
    Message::Binary(Bytes::from(vec![byte; length]))
}

/// Returns both ends of a WebSocket over a pipe of this capacity, in bytes.
async fn socket_pair(
    capacity: usize,
) -> (ServerSocket<DuplexStream>, WebSocketStream<DuplexStream>) {
    let (ours, theirs) = tokio::io::duplex(capacity);
    (ServerSocket::new(ours), WebSocketStream::from_raw_socket(theirs, Role::Client, None).await)
}

/// Asserts that no message is left.
fn check_no_message<S: AsyncRead + AsyncWrite + Unpin>(socket: &mut ServerSocket<S>) {
    assert!(socket.next().now_or_never().is_none(), "a further message is left");
}

#[tokio::test]
async fn a_socket_frees_the_buffer_of_a_large_message_and_keeps_small_buffers() {
    let (mut socket, mut client) = socket_pair(1 << 22).await;
    for (length, is_renewed) in [(100, false), (SOCKET_BYTES_KEPT + 1, true), (1 << 20, true)] {
        client.send(binary(length, 7)).await.unwrap();
        assert_eq!(socket.next().await.unwrap().unwrap().message, binary(length, 7));
        assert!(socket.largest >= length);
        check_no_message(&mut socket);
        assert_eq!(socket.largest == 0, is_renewed, "{length} bytes in");
    }
    socket.send(binary(1 << 20, 8)).await.unwrap();
    check_no_message(&mut socket);
    assert_eq!(socket.largest, 0, "1 MiB out");
    assert_eq!(client.next().await.unwrap().unwrap(), binary(1 << 20, 8));
}

#[tokio::test]
async fn no_buffered_message_is_lost_however_the_bytes_arrive() {
    for seed in 0..60 {
        let mut random = StdRng::seed_from_u64(seed);
        let (mut socket, mut client) = socket_pair(random.random_range(1..20_000)).await;
        let sizes = [0, 1, 125, 126, 5_000, 65_535, 65_536, 200_000];
        let messages: Vec<_> = (0..40u8)
            .map(|n| match random.random_range(0..10) {
                0 => Message::Ping(Bytes::from(vec![n; 9])),
                _ => binary(sizes[random.random_range(0..sizes.len())], n),
            })
            .collect();
        let sent = messages.clone();
        let client_task = tokio::spawn(async move {
            for message in sent {
                client.send(message).await.unwrap();
                if random.random_bool(0.3) {
                    tokio::task::yield_now().await;
                }
            }
            let mut received = Vec::new();
            while let Some(Ok(message)) = client.next().await {
                match message {
                    Message::Pong(_) => {}
                    Message::Close(_) => break,
                    message => received.push(message),
                }
            }
            received
        });
        let mut answers = Vec::new();
        for expected in messages {
            assert_eq!(socket.next().await.unwrap().unwrap().message, expected, "seed {seed}");
            let answer = binary(expected.len() / 2, 9);
            // Sent later: the client reads only after it has sent everything.
            answers.push(answer);
        }
        for answer in &answers {
            socket.send(answer.clone()).await.unwrap();
            check_no_message(&mut socket);
        }
        socket.close().await.unwrap();
        assert_eq!(client_task.await.unwrap(), answers, "seed {seed}");
    }
}

#[tokio::test]
async fn fragmented_messages_and_long_headers_are_read_completely() {
    let (ours, mut theirs) = tokio::io::duplex(1 << 20);
    let mut socket = ServerSocket::new(ours);
    // Masked with zeros. Lengths take eight bytes, although one would suffice for the first.
    let head = |opcode: u8, length: usize| {
        let mut head = vec![opcode, 0xff];
        head.extend((length as u64).to_be_bytes());
        head.extend([0; 4]);
        head
    };
    let mut parts = vec![[head(0x82, 5), vec![1; 5]].concat()];
    parts.push([head(0x02, 9_000), vec![2; 9_000]].concat());
    parts.push([head(0x80, 3), vec![2; 3]].concat());
    parts.push([head(0x82, 6_000), vec![3; 6_000]].concat());
    for part in parts.concat().chunks(1_000) {
        theirs.write_all(part).await.unwrap();
        tokio::task::yield_now().await;
    }
    for (length, byte) in [(5, 1), (9_003, 2), (6_000, 3)] {
        assert_eq!(socket.next().await.unwrap().unwrap().message, binary(length, byte));
    }
    check_no_message(&mut socket);
    assert_eq!(socket.largest, 0, "the buffer is freed");
    drop(socket);
    theirs.read_u8().await.unwrap_err();
}

#[tokio::test]
async fn input_after_the_close_is_discarded_for_a_bounded_time() {
    let started = Instant::now();
    discard(&mut stream::repeat(())).await;
    let elapsed = started.elapsed();
    assert!(elapsed >= DISCARD_TIMEOUT && elapsed < 2 * DISCARD_TIMEOUT, "{elapsed:?}");
}

#[tokio::test]
async fn input_after_an_invalid_frame_is_discarded_too() {
    let (ours, mut theirs) = tokio::io::duplex(1 << 10);
    let mut socket = ServerSocket::new(ours);
    let sending = tokio::spawn(async move {
        for _ in 0..100 {
            theirs.write_all(&[0xff; 1 << 10]).await.unwrap();
        }
        theirs
    });
    assert!(socket.next().await.unwrap().is_err());
    let mut discarding = std::pin::pin!(discard(&mut socket));
    let _theirs = tokio::select! {
        () = discarding.as_mut() => panic!("the connection is still open"),
        sent = sending => sent.unwrap(),
    };
}
