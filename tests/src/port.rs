//! A port for a server that has to be told one, or that has to keep it over a restart.

use std::net::{Ipv4Addr, TcpListener};

/// Below the ports that the system gives to connections, and to servers that take any.
const FIRST: u16 = 10_000;
const PORTS: u16 = 20_000;
const TRIES: usize = 100;

/// A port of 127.0.0.1 that nobody has, nor is given by chance before the server has it.
///
/// # Panics
/// When each of many has somebody already.
pub fn free() -> u16 {
    let mut tried = (0..TRIES).map(|_| FIRST + rand::random::<u16>() % PORTS);
    let is_free = |port: &u16| TcpListener::bind((Ipv4Addr::LOCALHOST, *port)).is_ok();
    tried.find(is_free).expect("most ports have nobody")
}
