//! How often somebody may ask: so many requests a minute, of a principal, or from an address that does not say who asks.

use std::net::IpAddr;
use std::num::NonZeroU32;
use std::sync::Arc;
use std::time::Duration;

use arc_swap::ArcSwap;
use governor::clock::{Clock, DefaultClock, Reference};
use governor::middleware::StateInformationMiddleware;
use governor::state::keyed::HashMapStateStore;
use governor::{Quota, RateLimiter};
use http::{HeaderMap, HeaderName, HeaderValue};
use parking_lot::Mutex;

use super::problem::Code;
use super::{Principal, Problem};
use crate::telemetry::clock;

/// The most principals and addresses that are counted at a time, of each limit. When there are more than that within a
/// minute, all are forgotten and counting begins anew: then a limit lets through what it should have refused.
pub(super) const COUNTED_MAX: usize = 65_536;
/// How often those are forgotten who have not asked for a while.
const SHRINK_INTERVAL: Duration = Duration::from_secs(60);
/// The span of the limits.
const SPAN: Duration = Duration::from_secs(60);
/// How much of an IPv6 address says who asks: the rest is the client's own to choose.
const IPV6_NETWORK_BITS: u32 = 64;

const LIMIT: HeaderName = HeaderName::from_static("x-ratelimit-limit");
const REMAINING: HeaderName = HeaderName::from_static("x-ratelimit-remaining");
const RESET: HeaderName = HeaderName::from_static("x-ratelimit-reset");
/// The headers that say how much of a limit is left.
pub(super) const HEADERS: [HeaderName; 3] = [LIMIT, REMAINING, RESET];

/// What a limit says of one request.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Counted {
    /// How many there may be a minute.
    limit: u32,
    /// How many more may follow at once.
    remaining: u32,
    /// After how long all of them may.
    whole_after: Duration,
    /// After how long one may, when this one may not.
    refused_for: Option<Duration>,
}

impl Counted {
    /// Says it in the headers of an answer.
    pub(super) fn put(self, headers: &mut HeaderMap) {
        let reset_s = (clock::now_ms() + as_ms(self.whole_after)).div_ceil(1_000);
        headers.insert(LIMIT, HeaderValue::from(self.limit));
        headers.insert(REMAINING, HeaderValue::from(self.remaining));
        headers.insert(RESET, HeaderValue::from(reset_s));
    }

    /// # Errors
    /// When the request is one too many.
    pub(super) fn allowed(self) -> Result<(), Problem> {
        let Some(wait) = self.refused_for else { return Ok(()) };
        let seconds = u32::try_from(as_ms(wait).div_ceil(1_000)).unwrap_or(u32::MAX).max(1);
        let detail = format!("{} a minute are the limit: try again in {seconds} s", self.limit);
        Err(Problem::new(Code::RateLimited, detail).retry_after(seconds))
    }
}

fn as_ms(duration: Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX)
}

type Limiter<C> = RateLimiter<Box<str>, HashMapStateStore<Box<str>>, C, StateInformationMiddleware>;

/// One limit, counted for each name.
pub(super) struct Limit<C: Clock + Clone = DefaultClock> {
    quota: Quota,
    limiter: ArcSwap<Limiter<C>>,
    clock: C,
    shrunk: Mutex<C::Instant>,
    counted_max: usize,
}

impl<C: Clock + Clone> Limit<C> {
    /// So many a minute, all of them at once if one likes; `None` for 0, which is no limit.
    fn new(per_minute: u32, clock: C, counted_max: usize) -> Option<Self> {
        let quota = Quota::per_minute(NonZeroU32::new(per_minute)?);
        let limiter = ArcSwap::from_pointee(fresh(quota, &clock));
        let shrunk = Mutex::new(clock.now());
        Some(Self { quota, limiter, clock, shrunk, counted_max })
    }

    /// Counts one request of that name.
    fn count(&self, name: &str) -> Counted {
        self.keep_small();
        let limit = self.quota.burst_size().get();
        // One is given back after each of these.
        let interval = SPAN / limit;
        match self.limiter.load().check_key(&name.into()) {
            Ok(left) => {
                let remaining = left.remaining_burst_capacity();
                Counted { limit, remaining, whole_after: interval * (limit - remaining.min(limit)), refused_for: None }
            }
            Err(until) => {
                let wait = until.wait_time_from(self.clock.now());
                let whole_after = wait + interval * (limit - 1);
                Counted { limit, remaining: 0, whole_after, refused_for: Some(wait) }
            }
        }
    }

    /// Forgets who has not asked for a while, and everybody when there are too many.
    fn keep_small(&self) {
        let limiter = self.limiter.load();
        let now = self.clock.now();
        let mut shrunk = self.shrunk.lock();
        let due = Duration::from(now.duration_since(*shrunk)) >= SHRINK_INTERVAL;
        let full = limiter.len() >= self.counted_max;
        if due {
            *shrunk = now;
            limiter.retain_recent();
            limiter.shrink_to_fit();
        }
        if full && limiter.len() >= self.counted_max {
            self.limiter.store(Arc::new(fresh(self.quota, &self.clock)));
        }
    }
}

fn fresh<C: Clock + Clone>(quota: Quota, clock: &C) -> Limiter<C> {
    Limiter::new(quota, HashMapStateStore::default(), clock.clone())
}

/// The limits of the API.
pub(super) struct Limits {
    requests: Option<Limit>,
    tests: Option<Limit>,
}

impl Limits {
    /// So many requests, and so many tests of webhooks, a minute; 0 is no limit.
    pub(super) fn new(requests_per_minute: u32, tests_per_minute: u32) -> Self {
        let limit = |per_minute| Limit::new(per_minute, DefaultClock::default(), COUNTED_MAX);
        Self { requests: limit(requests_per_minute), tests: limit(tests_per_minute) }
    }

    /// Counts a request of that principal. Those of anybody count by the address that they come from.
    pub(super) fn of_principal(&self, principal: &Principal, from: Option<IpAddr>) -> Option<Counted> {
        match principal.is_known() {
            true => self.requests.as_ref().map(|limit| limit.count(principal.name())),
            false => self.of_address(from),
        }
    }

    /// Counts a request that does not say who it is from.
    pub(super) fn of_address(&self, from: Option<IpAddr>) -> Option<Counted> {
        self.requests.as_ref().map(|limit| limit.count(&network(from)))
    }

    /// Counts a test of a webhook.
    pub(super) fn of_test(&self, principal: &Principal, from: Option<IpAddr>) -> Option<Counted> {
        let limit = self.tests.as_ref()?;
        Some(match principal.is_known() {
            true => limit.count(principal.name()),
            false => limit.count(&network(from)),
        })
    }
}

/// The name that an address is counted by.
fn network(from: Option<IpAddr>) -> String {
    match from.map(|address| address.to_canonical()) {
        Some(IpAddr::V6(address)) => {
            let bits = address.to_bits() >> (128 - IPV6_NETWORK_BITS);
            format!("ip:{bits:x}/{IPV6_NETWORK_BITS}")
        }
        Some(IpAddr::V4(address)) => format!("ip:{address}"),
        None => "ip:unknown".to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use governor::clock::FakeRelativeClock;

    use super::*;

    #[test]
    fn a_minute_s_worth_goes_at_once_and_then_one_at_a_time() {
        let clock = FakeRelativeClock::default();
        let limit = Limit::new(3, clock.clone(), 10).expect("a limit");
        let left: Vec<u32> = (0..3).map(|_| limit.count("a").remaining).collect();
        assert_eq!(left, [2, 1, 0]);
        let refused = limit.count("a");
        assert_eq!((refused.refused_for, refused.remaining), (Some(Duration::from_secs(20)), 0));
        assert_eq!(refused.whole_after, SPAN);
        let problem = refused.allowed().expect_err("one too many");
        assert_eq!((problem.code(), problem.status().as_u16()), (Code::RateLimited, 429));
        assert_eq!(limit.count("b").remaining, 2, "somebody else is counted by himself");

        clock.advance(Duration::from_secs(20));
        let again = limit.count("a");
        assert_eq!((again.remaining, again.whole_after, again.allowed()), (0, SPAN, Ok(())));
        clock.advance(Duration::from_secs(120));
        assert_eq!(limit.count("a").remaining, 2);
    }

    #[test]
    fn the_table_of_names_shrinks_by_itself_and_has_a_bound() {
        let clock = FakeRelativeClock::default();
        let limit = Limit::new(2, clock.clone(), 100).expect("a limit");
        for n in 0..50 {
            limit.count(&n.to_string());
        }
        assert_eq!(limit.limiter.load().len(), 50);
        clock.advance(Duration::from_secs(120));
        limit.count("late");
        assert_eq!(limit.limiter.load().len(), 1, "who has not asked for a while is forgotten");
        (0..1_000).for_each(|n| {
            limit.count(&format!("flood {n}"));
            assert!(limit.limiter.load().len() <= 100);
        });
        assert!(Limit::new(0, clock, 1).is_none(), "0 is no limit");
    }

    #[test]
    fn an_address_of_ipv6_counts_by_its_network() {
        let name = |text: &str| network(Some(text.parse().expect("an address")));
        assert_eq!(name("2001:db8::1"), name("2001:db8::ffff:2"));
        assert_ne!(name("2001:db8::1"), name("2001:db8:0:1::1"));
        assert_eq!((name("::ffff:10.0.0.1"), name("10.0.0.1")), ("ip:10.0.0.1".to_owned(), "ip:10.0.0.1".to_owned()));
        assert_eq!(network(None), "ip:unknown");
    }
}
