//! Which failures pass by themselves: a start waits those out, and ends with the others.

use async_nats::jetstream;
use async_nats::jetstream::consumer::StreamErrorKind;
use async_nats::jetstream::context::{
    AccountError, AccountErrorKind, ConsumerInfoError, ConsumerInfoErrorKind, CreateStreamError, CreateStreamErrorKind,
    GetStreamByNameError, GetStreamByNameErrorKind, GetStreamError, GetStreamErrorKind,
};
use async_nats::jetstream::stream::{ConsumerError, ConsumerErrorKind};
use async_nats::{ConnectError, ConnectErrorKind};

use super::{Error, Source};

/// The status of a server that cannot do something at the moment.
const UNAVAILABLE: usize = 503;

/// What a server said, or did not say.
enum Said {
    /// It gave this error.
    Refused(jetstream::Error),
    /// It did not answer, or the connection failed.
    Nothing,
    /// The request itself is wrong, or nobody is there who could ever answer it.
    Never,
}

impl Error {
    /// May the same call succeed later, with nothing changed in the configuration? So it is when NATS cannot be reached,
    /// does not answer, or says that it is not ready.
    pub fn is_passing(&self) -> bool {
        match self {
            Self::Connect { source, .. } => {
                let kind = source.downcast_ref::<ConnectError>().map(ConnectError::kind);
                !matches!(
                    kind,
                    Some(
                        ConnectErrorKind::ServerParse
                            | ConnectErrorKind::Authentication
                            | ConnectErrorKind::AuthorizationViolation
                    )
                )
            }
            Self::JetStream(source)
            | Self::Stream { source, .. }
            | Self::Consumer { source, .. }
            | Self::Read { source, .. } => match said(source) {
                Said::Refused(error) => {
                    let code = error.error_code();
                    let is_off = code == jetstream::ErrorCode::JETSTREAM_NOT_ENABLED
                        || code == jetstream::ErrorCode::JETSTREAM_NOT_ENABLED_FOR_ACCOUNT;
                    error.code() == UNAVAILABLE && !is_off
                }
                Said::Nothing => true,
                Said::Never => false,
            },
            // The next look finds the new one.
            Self::Replaced { .. } => true,
            _ => false,
        }
    }
}

fn said(source: &Source) -> Said {
    use Said::{Never, Nothing, Refused};

    if let Some(error) = source.downcast_ref::<AccountError>() {
        return match error.kind() {
            AccountErrorKind::JetStream(error) => Refused(error),
            // Nobody takes the request: the server runs without JetStream.
            AccountErrorKind::JetStreamUnavailable => Never,
            AccountErrorKind::TimedOut | AccountErrorKind::Other => Nothing,
        };
    }
    if let Some(error) = source.downcast_ref::<GetStreamError>() {
        return match error.kind() {
            GetStreamErrorKind::JetStream(error) => Refused(error),
            GetStreamErrorKind::Request => Nothing,
            GetStreamErrorKind::EmptyName | GetStreamErrorKind::InvalidStreamName => Never,
        };
    }
    if let Some(error) = source.downcast_ref::<GetStreamByNameError>() {
        return match error.kind() {
            GetStreamByNameErrorKind::JetStream(error) => Refused(error),
            GetStreamByNameErrorKind::Request => Nothing,
            GetStreamByNameErrorKind::NotFound | GetStreamByNameErrorKind::InvalidSubject => Never,
        };
    }
    if let Some(error) = source.downcast_ref::<CreateStreamError>() {
        return match error.kind() {
            CreateStreamErrorKind::JetStream(error) => Refused(error),
            CreateStreamErrorKind::TimedOut
            | CreateStreamErrorKind::JetStreamUnavailable
            | CreateStreamErrorKind::Response => Nothing,
            _ => Never,
        };
    }
    if let Some(error) = source.downcast_ref::<ConsumerInfoError>() {
        return match error.kind() {
            ConsumerInfoErrorKind::JetStream(error) => Refused(error),
            ConsumerInfoErrorKind::InvalidName
            | ConsumerInfoErrorKind::NotFound
            | ConsumerInfoErrorKind::StreamNotFound => Never,
            _ => Nothing,
        };
    }
    if let Some(error) = source.downcast_ref::<ConsumerError>() {
        return match error.kind() {
            ConsumerErrorKind::JetStream(error) => Refused(error),
            ConsumerErrorKind::TimedOut | ConsumerErrorKind::Request | ConsumerErrorKind::Other => Nothing,
            ConsumerErrorKind::InvalidConsumerType | ConsumerErrorKind::InvalidName => Never,
        };
    }
    match source.downcast_ref::<jetstream::consumer::StreamError>().map(jetstream::consumer::StreamError::kind) {
        Some(StreamErrorKind::TimedOut | StreamErrorKind::Other) | None => Nothing,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::domain::StreamName;

    fn connect(kind: ConnectErrorKind) -> Error {
        Error::Connect { url: "nats://127.0.0.1:1".to_owned(), source: ConnectError::new(kind).into() }
    }

    #[test]
    fn what_only_the_configuration_can_change_does_not_pass() {
        assert!(connect(ConnectErrorKind::Io).is_passing());
        assert!(connect(ConnectErrorKind::TimedOut).is_passing());
        assert!(connect(ConnectErrorKind::Dns).is_passing());
        assert!(!connect(ConnectErrorKind::AuthorizationViolation).is_passing());
        let stream = StreamName::parse("EVENTS").expect("a name");
        assert!(!Error::NoStream { stream: stream.clone() }.is_passing());
        let look_up = |kind| Error::Stream {
            action: "look up",
            stream: stream.clone(),
            source: GetStreamError::new(kind).into(),
        };
        assert!(look_up(GetStreamErrorKind::Request).is_passing());
        let said = |code: usize, err_code: u64| {
            let text = format!(r#"{{ "code": {code}, "err_code": {err_code}, "description": "said" }}"#);
            GetStreamErrorKind::JetStream(serde_json::from_str(&text).expect("an error of the server"))
        };
        assert!(look_up(said(503, 10008)).is_passing(), "no leader yet");
        assert!(!look_up(said(503, 10039)).is_passing(), "the account has no JetStream");
        assert!(!look_up(said(400, 10025)).is_passing());
        assert!(Error::JetStream(AccountError::new(AccountErrorKind::TimedOut).into()).is_passing());
        assert!(!Error::JetStream(AccountError::new(AccountErrorKind::JetStreamUnavailable).into()).is_passing());
    }
}
