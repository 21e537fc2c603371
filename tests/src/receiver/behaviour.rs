//! How a receiver answers.

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;

use super::Received;

/// How a receiver answers, until another is set.
#[derive(Clone, Default)]
pub enum Behaviour {
    /// 200, an empty body.
    #[default]
    Ok,
    /// This status, an empty body.
    Status(u16),
    /// The first `n` requests get `status`, those after them `then`.
    FailTimes {
        /// How many fail.
        n: u64,
        /// What they get.
        status: u16,
        /// What comes after them.
        then: Box<Behaviour>,
    },
    /// Reads the request and never answers.
    Hang,
    /// Answers 200 and the first bytes of a body that never ends or goes on.
    HangBody,
    /// Reads the request and resets the connection.
    Reset,
    /// Reads the request, sends these bytes in the place of an answer, and closes the connection.
    Says(Bytes),
    /// 302 to `/redirected` of the same receiver.
    Redirect,
    /// 200 after this time.
    Slow(Duration),
    /// 200 and a body of one byte each interval, without end.
    Dribble(Duration),
    /// 200 and a body of this many bytes, as fast as they are read.
    Flood(u64),
    /// Whatever the function says.
    Custom(Arc<dyn Fn(&Received) -> Reply + Send + Sync>),
}

/// A whole answer.
#[derive(Debug, Clone, Default)]
pub struct Reply {
    /// The status; 0 stands for 200.
    pub status: u16,
    /// Header names and values.
    pub headers: Vec<(&'static str, String)>,
    /// The body.
    pub body: Bytes,
    /// How long to wait before it is sent.
    pub delay: Duration,
}

impl Behaviour {
    /// The first `n` requests get `status`, those after them 200.
    pub fn fail_times(n: u64, status: u16) -> Self {
        Self::FailTimes { n, status, then: Box::new(Self::Ok) }
    }

    /// Whatever `answer` says.
    pub fn custom(answer: impl Fn(&Received) -> Reply + Send + Sync + 'static) -> Self {
        Self::Custom(Arc::new(answer))
    }

    /// What the request with this index (from 0, since the behaviour was set) meets: never `FailTimes`.
    pub(super) fn at(&self, index: u64) -> Self {
        match self {
            Self::FailTimes { n, status, .. } if index < *n => Self::Status(*status),
            Self::FailTimes { n, then, .. } => then.at(index - n),
            other => other.clone(),
        }
    }
}

impl Reply {
    /// A status with an empty body.
    pub fn status(status: u16) -> Self {
        Self { status, ..Self::default() }
    }

    /// The same with one more header.
    #[must_use]
    pub fn header(mut self, name: &'static str, value: impl Into<String>) -> Self {
        self.headers.push((name, value.into()));
        self
    }
}

impl fmt::Debug for Behaviour {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Ok => f.write_str("Ok"),
            Self::Status(status) => write!(f, "Status({status})"),
            Self::FailTimes { n, status, then } => write!(f, "FailTimes({n} times {status}, then {then:?})"),
            Self::Hang => f.write_str("Hang"),
            Self::HangBody => f.write_str("HangBody"),
            Self::Reset => f.write_str("Reset"),
            Self::Says(bytes) => write!(f, "Says({bytes:?})"),
            Self::Redirect => f.write_str("Redirect"),
            Self::Slow(time) => write!(f, "Slow({time:?})"),
            Self::Dribble(interval) => write!(f, "Dribble({interval:?})"),
            Self::Flood(bytes) => write!(f, "Flood({bytes})"),
            Self::Custom(_) => f.write_str("Custom"),
        }
    }
}
