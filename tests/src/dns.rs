//! A real name server on loopback whose answers a test sets and switches while it runs.

use std::collections::HashMap;
use std::net::{IpAddr, Ipv4Addr, SocketAddr, UdpSocket};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::JoinHandle;
use std::time::Duration;

use hickory_proto::op::{Message, MessageType, OpCode, ResponseCode};
use hickory_proto::rr::{Name, RData, Record, RecordType};
use parking_lot::Mutex;

/// How long the server's thread sleeps in its socket before it looks whether it is to end.
const TURN: Duration = Duration::from_millis(50);
/// The largest question over UDP, in bytes.
const QUESTION_BYTES_MAX: usize = 4096;

/// A name server over UDP on a thread of its own. It says that names which it was not told of do not exist. Stopped on
/// drop.
#[derive(Debug)]
pub struct TestDns {
    address: SocketAddr,
    names: Arc<Mutex<HashMap<String, Answers>>>,
    running: Option<(Arc<AtomicBool>, JoinHandle<()>)>,
}

/// What a name leads to: one set of addresses for each question of a kind, the last of them from then on.
#[derive(Debug)]
struct Answers {
    ttl_seconds: u32,
    sets: Vec<Vec<IpAddr>>,
    asked: HashMap<RecordType, usize>,
    /// The id of the last question of each kind. Who has no answer within a third of a second says the same question again,
    /// under the same id: it is one question.
    last: HashMap<RecordType, u16>,
}

impl TestDns {
    /// Starts one that knows no names.
    pub fn start() -> Self {
        let names = Arc::default();
        let (address, running) = serve(SocketAddr::from((Ipv4Addr::LOCALHOST, 0)), Arc::clone(&names));
        Self { address, names, running: Some(running) }
    }

    /// Where it listens, the same after [`TestDns::resume`].
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// The key of `[delivery]` that makes a daemon ask it.
    pub fn toml(&self) -> String {
        format!("dns_servers = [\"{}\"]\n", self.address)
    }

    /// From now on `name` leads to the first of these sets of addresses, to the next when it is asked for again, and to
    /// the last from then on. Each answer may be kept for that long.
    pub fn answer(&self, name: &str, ttl_seconds: u32, sets: &[&[&str]]) {
        let ips = |set: &&[&str]| set.iter().map(|ip| ip.parse().expect("an address")).collect();
        let (sets, asked, last) = (sets.iter().map(ips).collect(), HashMap::new(), HashMap::new());
        self.names.lock().insert(name.to_owned(), Answers { ttl_seconds, sets, asked, last });
    }

    /// How often the IPv4 addresses of `name` were asked for since its answer was set. A question that was sent twice counts once.
    pub fn asked(&self, name: &str) -> usize {
        let names = self.names.lock();
        names.get(name).and_then(|answers| answers.asked.get(&RecordType::A)).copied().unwrap_or(0)
    }

    /// Closes the port: questions get no answer until [`TestDns::resume`].
    pub fn stop(&mut self) {
        if let Some((stop, thread)) = self.running.take() {
            stop.store(true, Ordering::Relaxed);
            thread.join().expect("the name server's thread does not panic");
        }
    }

    /// Listens again on the same port.
    pub fn resume(&mut self) {
        self.stop();
        self.running = Some(serve(self.address, Arc::clone(&self.names)).1);
    }
}

impl Drop for TestDns {
    fn drop(&mut self) {
        self.stop();
    }
}

type Names = Arc<Mutex<HashMap<String, Answers>>>;

fn serve(address: SocketAddr, names: Names) -> (SocketAddr, (Arc<AtomicBool>, JoinHandle<()>)) {
    let socket = UdpSocket::bind(address).expect("a loopback port is free");
    socket.set_read_timeout(Some(TURN)).expect("a socket can have a timeout");
    let address = socket.local_addr().expect("a bound socket has an address");
    let stop = Arc::new(AtomicBool::new(false));
    let stopped = Arc::clone(&stop);
    let serve = move || {
        let mut buffer = [0; QUESTION_BYTES_MAX];
        while !stopped.load(Ordering::Relaxed) {
            let Ok((length, from)) = socket.recv_from(&mut buffer) else { continue };
            if let Some(answer) = answer(&buffer[..length], &names) {
                drop(socket.send_to(&answer, from));
            }
        }
    };
    let thread = std::thread::Builder::new().name("dns".to_owned()).spawn(serve).expect("a thread");
    (address, (stop, thread))
}

fn answer(question: &[u8], names: &Names) -> Option<Vec<u8>> {
    let question = Message::from_vec(question).ok()?;
    let mut answer = Message::new(question.metadata.id, MessageType::Response, OpCode::Query);
    answer.metadata.recursion_available = true;
    for query in &question.queries {
        answer.add_query(query.clone());
        let name = query.name().to_utf8().trim_end_matches('.').to_lowercase();
        match names.lock().get_mut(&name) {
            None => answer.metadata.response_code = ResponseCode::NXDomain,
            Some(answers) => {
                let records = answers.records(question.metadata.id, query.name(), query.query_type());
                answer.add_answers(records);
            }
        }
    }
    answer.to_vec().ok()
}

impl Answers {
    /// What a question of that id and kind is answered with.
    fn records(&mut self, id: u16, name: &Name, kind: RecordType) -> Vec<Record> {
        let asked = self.asked.entry(kind).or_default();
        if self.last.insert(kind, id) != Some(id) {
            *asked += 1;
        }
        let set = &self.sets[(*asked - 1).min(self.sets.len() - 1)];
        let of_kind =
            |ip: &&IpAddr| ip.is_ipv4() == (kind == RecordType::A) && ip.is_ipv6() == (kind == RecordType::AAAA);
        let record = |ip: &IpAddr| {
            let data = match *ip {
                IpAddr::V4(ip) => RData::A(ip.into()),
                IpAddr::V6(ip) => RData::AAAA(ip.into()),
            };
            Record::from_rdata(name.clone(), self.ttl_seconds, data)
        };
        set.iter().filter(of_kind).map(record).collect()
    }
}
