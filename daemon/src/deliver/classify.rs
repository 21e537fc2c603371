//! What an attempt's end means: delivered, worth another attempt, or final; and whose fault it was.
//!
//! | end | outcome | class |
//! |---|---|---|
//! | 2xx | delivered | |
//! | 408, 425, 429, 5xx, and statuses that no final answer can have | retry | status |
//! | 410 | final | gone |
//! | other 4xx, 3xx | final | status |
//! | 3xx to 5xx but 410, where the endpoint has a rule for the status | as the rule says | status |
//! | no connection, a broken one, an answer that is not HTTP | retry | network |
//! | no connection or no status in time | retry | timeout |
//! | the address policy refuses | final | address refused |
//! | out of file descriptors, memory, ports, look-ups or connections; the proxy fails; a request that cannot be built | retry | internal |
//!
//! Errors are told apart by type, never by their text.

use std::error::Error;
use std::fmt;
use std::io;
use std::time::{Duration, SystemTime};

use http::StatusCode;
use rustix::io::Errno;

use crate::deliver::address::{Refused, RefusedPort};
use crate::deliver::{capture, connect, connections, proxy, resolve};
use crate::domain::{Failure, FailureClass, Outcome, Response, StatusRules};

/// The longest message about a connection, in bytes: a certificate's complaint can list every name that it is for.
const MESSAGE_BYTES_MAX: usize = 400;
/// Errors of the system that tell of the daemon's own limits or of the local firewall, not of the receiver.
const OURS: [Errno; 6] = [Errno::MFILE, Errno::NFILE, Errno::NOMEM, Errno::NOBUFS, Errno::ADDRNOTAVAIL, Errno::PERM];

/// The outcome of an answer with that status, at an endpoint with those rules. `response` is what is kept of the answer;
/// the message quotes a refusal's body from it.
pub fn answered(
    host: &str,
    status: StatusCode,
    rules: &StatusRules,
    retry_after_ms: Option<u64>,
    response: Option<Box<Response>>,
) -> Outcome {
    if status.is_success() {
        return Outcome::Delivered { status: status.as_u16(), response };
    }
    let said = response.as_deref().map(capture::said).unwrap_or_default();
    let class = if status == StatusCode::GONE { FailureClass::Gone } else { FailureClass::Status };
    let reason = status.canonical_reason().map(|reason| format!(" {reason}")).unwrap_or_default();
    let colon = if said.is_empty() { "" } else { ": " };
    let failure = Failure {
        class,
        status: Some(status.as_u16()),
        message: format!("{host} answered {}{reason}{colon}{said}", status.as_u16()).into(),
        retry_after_ms,
        response,
    };
    let usual = matches!(status.as_u16(), 408 | 425 | 429) || !matches!(status.as_u16(), 300..=499);
    if rules.retries(status.as_u16()).unwrap_or(usual) { Outcome::Retry(failure) } else { Outcome::Final(failure) }
}

/// How long a `Retry-After` asks to wait, in milliseconds and at most `max`. `None` for a status that the header says
/// nothing about, a value that is neither seconds nor a date, and a time that has passed.
pub fn retry_after_ms(status: StatusCode, value: &[u8], now_ms: u64, max: Duration) -> Option<u64> {
    if !matches!(status, StatusCode::TOO_MANY_REQUESTS | StatusCode::SERVICE_UNAVAILABLE) {
        return None;
    }
    let text = std::str::from_utf8(value).ok()?.trim();
    let wait = if !text.is_empty() && text.bytes().all(|b| b.is_ascii_digit()) {
        // More digits than a number holds still ask for the longest wait.
        Duration::from_secs(text.parse().unwrap_or(u64::MAX))
    } else {
        let now = SystemTime::UNIX_EPOCH.checked_add(Duration::from_millis(now_ms))?;
        httpdate::parse_http_date(text).ok()?.duration_since(now).ok()?
    };
    let wait_ms = u64::try_from(wait.min(max).as_millis()).unwrap_or(u64::MAX);
    (wait_ms > 0).then_some(wait_ms)
}

/// The outcome when the status did not come within `limit`.
pub fn timed_out(host: &str, limit: Duration) -> Outcome {
    Outcome::Retry(failure(FailureClass::Timeout, format!("{host} did not answer within {}", Seconds(limit))))
}

/// The outcome when the policy refuses where the endpoint leads.
pub fn refused(host: &str, refused: Refused) -> Outcome {
    Outcome::Final(failure(FailureClass::AddressRefused, format!("{host} leads to a refused address: {refused}")))
}

/// The outcome when no answer came because of `error`.
pub fn failed(host: &str, error: &(dyn Error + 'static)) -> Outcome {
    let (class, message) = match cause(error) {
        Cause::Refused(reason) => return refused(host, reason),
        Cause::RefusedPort(reason) => {
            return Outcome::Final(failure(FailureClass::AddressRefused, format!("{host} cannot be called: {reason}")));
        }
        Cause::ConnectTimedOut(limit) => {
            (FailureClass::Timeout, format!("no connection to {host} within {}", Seconds(limit)))
        }
        Cause::TimedOut => (FailureClass::Timeout, format!("{host} did not answer in time")),
        Cause::Ours(what) => (FailureClass::Internal, format!("the request to {host} could not be made: {what}")),
        Cause::Lookup => (FailureClass::Network, format!("the name {host} could not be resolved")),
        Cause::Tls(error) => (FailureClass::Network, format!("no secure connection to {host}: {error}")),
        Cause::Io(kind) => (FailureClass::Network, format!("no answer from {host}: {kind}")),
        Cause::Proxy(status) => {
            (FailureClass::Network, format!("no connection to {host}: the proxy answered {status}"))
        }
        Cause::NotHttp => (FailureClass::Network, format!("the answer of {host} is not valid HTTP")),
        Cause::Broken => (FailureClass::Network, format!("the connection to {host} broke before an answer came")),
    };
    Outcome::Retry(failure(class, message))
}

fn failure(class: FailureClass, mut message: String) -> Failure {
    message.truncate(message.floor_char_boundary(MESSAGE_BYTES_MAX));
    Failure { class, status: None, message: message.into(), retry_after_ms: None, response: None }
}

enum Cause {
    Refused(Refused),
    RefusedPort(RefusedPort),
    ConnectTimedOut(Duration),
    TimedOut,
    Ours(String),
    Lookup,
    Tls(rustls::Error),
    Io(io::ErrorKind),
    Proxy(StatusCode),
    NotHttp,
    Broken,
}

/// The deepest cause that is known by its type: those above it only pass it on.
fn cause(error: &(dyn Error + 'static)) -> Cause {
    let mut found = None;
    let mut next = Some(error);
    while let Some(error) = next {
        found = known(error).or(found);
        next = match error.downcast_ref::<io::Error>() {
            // `source` of such an error skips the error within.
            Some(io) => io.get_ref().map(|inner| inner as &(dyn Error + 'static)),
            None => error.source(),
        };
    }
    found.unwrap_or(Cause::Broken)
}

fn known(error: &(dyn Error + 'static)) -> Option<Cause> {
    if let Some(connect::TimedOut(limit)) = error.downcast_ref() {
        Some(Cause::ConnectTimedOut(*limit))
    } else if let Some(refused) = error.downcast_ref::<Refused>() {
        Some(Cause::Refused(*refused))
    } else if let Some(error) = error.downcast_ref::<resolve::Error>() {
        Some(match error {
            resolve::Error::Refused(refused) => Cause::Refused(*refused),
            resolve::Error::Busy => Cause::Ours(error.to_string()),
            resolve::Error::Nothing => Cause::Lookup,
            resolve::Error::Lookup(io) => ours(io).unwrap_or(Cause::Lookup),
        })
    } else if let Some(refused) = error.downcast_ref::<RefusedPort>() {
        Some(Cause::RefusedPort(*refused))
    } else if let Some(error) = error.downcast_ref::<connections::NoneFree>() {
        Some(Cause::Ours(error.to_string()))
    } else if let Some(error) = error.downcast_ref::<proxy::Error>() {
        Some(of_proxy(error))
    } else if let Some(error) = error.downcast_ref::<rustls::Error>() {
        Some(Cause::Tls(error.clone()))
    } else if let Some(error) = error.downcast_ref::<io::Error>() {
        Some(ours(error).unwrap_or(match error.kind() {
            io::ErrorKind::TimedOut => Cause::TimedOut,
            kind => Cause::Io(kind),
        }))
    } else if let Some(error) = error.downcast_ref::<hyper::Error>() {
        of_http(error)
    } else {
        None
    }
}

fn of_proxy(error: &proxy::Error) -> Cause {
    match error {
        proxy::Error::Refused(status) if !error.is_ours() => Cause::Proxy(*status),
        _ => Cause::Ours(error.to_string()),
    }
}

fn of_http(error: &hyper::Error) -> Option<Cause> {
    if error.is_parse() {
        Some(Cause::NotHttp)
    } else if error.is_timeout() {
        Some(Cause::TimedOut)
    } else if error.is_user() {
        Some(Cause::Ours("the client refuses it".to_owned()))
    } else {
        None
    }
}

fn ours(error: &io::Error) -> Option<Cause> {
    let code = error.raw_os_error()?;
    OURS.iter().any(|errno| errno.raw_os_error() == code).then(|| Cause::Ours(error.to_string()))
}

/// Shows a time in seconds: `5 s`, `0.25 s`.
struct Seconds(Duration);

impl fmt::Display for Seconds {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} s", self.0.as_secs_f64())
    }
}

#[cfg(test)]
mod tests;
