//! Clients of a feed that want the same: an event is matched once for all of them, and wakes only those that want it.

use std::collections::VecDeque;
use std::sync::Arc;
use std::task::Waker;

use parking_lot::Mutex;

use super::cursor::Tag;
use super::feed::Lease;
use super::history::{Historian, Waiting};
use super::ring::{Entry, Found, Matched};
use super::standing::{Pace, Step};
use crate::domain::{Pattern, StreamName};
use crate::route::Table;

/// How many of the newest sequences that match are remembered; who is further behind looks through the ring.
const RECENT_MAX: usize = 64;
/// How many clients are woken before others have a turn: an event for thousands is not to keep a webhook waiting.
const WOKEN_AT_ONCE: usize = 64;

/// What clients want of a feed: these subjects, or everything.
pub(super) type Wish = Option<Box<[Pattern]>>;

/// The clients of one feed with one wish.
pub(super) struct Group {
    lease: Lease,
    wish: Wish,
    pub(super) historian: Arc<Historian>,
    pub(super) waiting: Waiting,
    table: Table,
    clients: Mutex<Clients>,
}

struct Clients {
    matched: Matched,
    members: Vec<Member>,
    free: Vec<usize>,
}

/// One client's place here.
#[derive(Default)]
struct Member {
    waker: Option<Waker>,
    /// It has looked, found nothing, and is to be told.
    waits: bool,
    supply: Supply,
    /// That of the stream that it knows.
    tag: Tag,
    /// What it looks for next; nothing where nobody has this place.
    next: Option<u64>,
}

/// Where a client has its entries from.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(super) enum Supply {
    /// The ring.
    #[default]
    Ring,
    /// A piece of history that it has asked for.
    Asked,
    /// A piece of history that it has.
    Piece,
}

impl Group {
    pub(super) fn new(lease: Lease, wish: Wish, historian: Arc<Historian>, since: u64) -> Self {
        let table = Table::new(wish.iter().flatten().map(|pattern| (pattern, 0)));
        let matched = Matched { recent: VecDeque::new(), since };
        let clients = Clients { matched, members: Vec::new(), free: Vec::new() };
        Self { lease, wish, historian, waiting: Waiting::default(), table, clients: Mutex::new(clients) }
    }

    pub(super) fn stream(&self) -> &StreamName {
        &self.historian.stream.name
    }

    /// A new client's number.
    pub(super) fn join(&self, next: u64, tag: Tag) -> usize {
        let mut clients = self.clients.lock();
        let number = clients.free.pop().unwrap_or_else(|| {
            clients.members.push(Member::default());
            clients.members.len() - 1
        });
        clients.members[number] = Member { next: Some(next), tag, ..Member::default() };
        number
    }

    /// A client has its entries from elsewhere now.
    pub(super) fn takes_from(&self, number: usize, supply: Supply) {
        self.clients.lock().members[number].supply = supply;
    }

    pub(super) fn leave(&self, number: usize) {
        let mut clients = self.clients.lock();
        clients.members[number] = Member::default();
        clients.free.push(number);
    }

    /// A client is to be told of what comes from now on. It looks after this, not before, so that nothing comes between.
    pub(super) fn wait(&self, number: usize, next: u64, tag: Tag, waker: &Waker) {
        let mut clients = self.clients.lock();
        let member = &mut clients.members[number];
        match &mut member.waker {
            Some(known) => known.clone_from(waker),
            none => *none = Some(waker.clone()),
        }
        member.waits = true;
        (member.next, member.tag) = (Some(next), tag);
    }

    /// What is there at a place.
    pub(super) fn find(&self, next: u64, epoch: u64) -> Found {
        let ring = self.lease.feed().ring();
        let clients = self.clients.lock();
        let mut scratch = Vec::new();
        ring.find(next, epoch, &clients.matched, |entry| self.wants(entry, &mut scratch))
    }

    fn wants(&self, entry: &Entry, scratch: &mut Vec<u32>) -> bool {
        let (true, Some(event)) = (self.wish.is_some(), entry.event()) else { return true };
        self.table.matches(&event.subject, scratch);
        !scratch.is_empty()
    }

    /// An entry that matches was put into the ring.
    pub(super) fn matched(&self, sequence: u64) {
        let matched = &mut self.clients.lock().matched;
        matched.recent.push_back(sequence);
        if matched.recent.len() > RECENT_MAX {
            matched.since = matched.recent.pop_front().map_or(matched.since, |oldest| oldest + 1);
        }
    }

    /// The ring began anew: nothing is known of what was before.
    pub(super) fn begin_anew(&self, since: u64) {
        self.clients.lock().matched = Matched { recent: VecDeque::new(), since };
    }

    /// Wakes the clients that wait, some at a time.
    pub(super) async fn wake(&self) {
        let mut from = 0;
        while let Some(next) = self.wake_some(from, WOKEN_AT_ONCE) {
            from = next;
            tokio::task::yield_now().await;
        }
    }

    /// Wakes the clients that wait, all at once.
    pub(super) fn wake_all(&self) {
        self.wake_some(0, usize::MAX);
    }

    /// Wakes so many clients that wait, and says where to go on.
    fn wake_some(&self, from: usize, woken_max: usize) -> Option<usize> {
        let mut clients = self.clients.lock();
        let mut woken = 0;
        for (at, member) in clients.members.iter_mut().enumerate().skip(from) {
            if woken >= woken_max {
                return Some(at);
            }
            if std::mem::take(&mut member.waits)
                && let Some(waker) = &member.waker
            {
                woken += 1;
                waker.wake_by_ref();
            }
        }
        None
    }

    /// How far the client that is furthest behind is behind, in sequences; 0 when nothing that it wants is before it.
    pub(super) fn behind(&self) -> u64 {
        let ring = self.lease.feed().ring();
        let clients = self.clients.lock();
        let behind = |next: u64| match clients.matched.nothing_from(next) {
            true => 0,
            false => ring.end().saturating_sub(next),
        };
        clients.members.iter().filter_map(|member| member.next).map(behind).max().unwrap_or(0)
    }

    /// Where a client stands; `None` when nobody has that number.
    pub(super) fn step(&self, number: usize) -> Option<Step> {
        let ring = self.lease.feed().ring();
        let clients = self.clients.lock();
        let member = clients.members.get(number)?;
        let (next, tag) = (member.next?, member.tag);
        // A client that takes nothing has yet to see that the stream is another one.
        let from = if tag == ring.tag() { next } else { ring.start() };
        let lag_events = if clients.matched.nothing_from(from) { 0 } else { ring.end().saturating_sub(from) };
        let pace = match member.supply {
            Supply::Ring if lag_events > 0 && from < ring.start() => Pace::CatchingUp,
            Supply::Ring => Pace::Live,
            Supply::Asked if self.waiting.is_in_line(next) => Pace::Waiting,
            Supply::Asked | Supply::Piece => Pace::CatchingUp,
        };
        Some(Step { next, tag, pace, lag_events })
    }
}

impl Drop for Group {
    fn drop(&mut self) {
        self.lease.feed().left(&self.wish);
    }
}
