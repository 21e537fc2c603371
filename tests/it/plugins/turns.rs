//! Calls that take long leave the thread to others: after each slice the runtime looks for what has come in on its sockets.

use std::net::Ipv4Addr;

use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::mpsc;
use tokio::task::JoinSet;

use super::hostile::{hostile, limits};
use super::*;

/// How many bytes go to an echo and come back, one after the other, while a task of the same thread runs. Each way waits
/// for the runtime to look at the sockets once, which it does twice between two slices.
async fn trips_while(task: impl Future<Output = ()> + Send + 'static) -> u64 {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.expect("a port");
    let address = listener.local_addr().expect("an address");
    let (mut busy, mut echo) = (JoinSet::new(), JoinSet::new());
    // Who reads hands on to another task, and that one to a third, as an event goes from its stream to its request.
    let (read, mut handed_on) = mpsc::channel(1);
    let (hand_on, mut to_write) = mpsc::channel(1);
    echo.spawn(async move {
        let (mut from, mut to) = listener.accept().await.expect("a connection").0.into_split();
        let mut stages = JoinSet::new();
        stages.spawn(async move {
            while let Some(byte) = handed_on.recv().await {
                hand_on.send(byte).await.expect("the third task runs");
            }
        });
        stages.spawn(async move {
            while let Some(byte) = to_write.recv().await {
                to.write_u8(byte).await.expect("written");
            }
        });
        while let Ok(byte) = from.read_u8().await {
            read.send(byte).await.expect("the second task runs");
        }
    });
    let mut stream = TcpStream::connect(address).await.expect("a connection");
    stream.set_nodelay(true).expect("without delay");
    let mut trips = 0;
    busy.spawn(task);
    while busy.try_join_next().is_none() {
        stream.write_u8(b'x').await.expect("written");
        stream.read_u8().await.expect("read");
        trips += 1;
    }
    trips
}

#[tokio::test]
async fn sockets_are_looked_at_after_each_slice_of_a_loop() {
    let chain = Lab::with(&["hostile"], limits()).chain(&[], &[hostile("loop")]);
    let trips = trips_while(async move {
        let kind = fault(chain.run(&event("a", &json!({}))).await).kind;
        assert_eq!(kind, FaultKind::Deadline { limit_ms: limits().call_deadline_ms });
    });
    let (trips, slices) = (trips.await, limits().call_deadline_ms);
    assert!(trips >= slices * 2 / 3, "{trips} trips in {slices} slices");
}

#[tokio::test]
async fn loops_beside_each_other_take_turns_and_no_more_of_the_thread_than_one() {
    let lab = Lab::with(&["hostile"], limits());
    let chains = [1, 2, 3].map(|_| lab.chain(&[], &[hostile("loop")]));
    let trips = trips_while(async move {
        let mut calls = JoinSet::new();
        for chain in chains {
            calls.spawn(async move { chain.run(&event("a", &json!({}))).await });
        }
        assert_eq!(calls.join_all().await.len(), 3);
    });
    let (trips, slices) = (trips.await, 3 * limits().call_deadline_ms);
    assert!(trips >= slices * 2 / 3, "{trips} trips in {slices} slices");
}

#[tokio::test]
async fn many_short_calls_in_a_row_leave_the_thread_to_others_as_a_long_one_does() {
    // A fifth of a slice or so each: none of them is ever put aside by itself.
    let short = with("hostile", &json!({ "do": "slow", "amount": 250 }));
    let chain = Lab::with(&["hostile"], limits()).chain(&[], &[short]);
    let trips = trips_while(async move {
        for _ in 0..500 {
            assert!(matches!(chain.run(&event("a", &json!({}))).await.passed, Passed::Kept(_)));
        }
    });
    let trips = trips.await;
    assert!(trips >= 10, "{trips} trips");
}
