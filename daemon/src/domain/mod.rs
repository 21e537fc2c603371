//! The words of sluiced as types: pure values and rules, without I/O, clocks or serialization.
//!
//! Everything else imports this module; it imports nothing of the crate.

pub mod ack;
pub mod allow;
pub mod begin;
pub mod cover;
pub mod delivery;
pub mod event;
pub mod health;
pub mod job;
pub mod order;
pub mod owner;
pub mod ranges;
pub mod rate;
pub mod retry;
pub mod scope;
pub mod subject;
pub mod subscription;
pub mod webhook;

pub use ack::{AckShare, AckSink, AckToken, Settlement};
pub use allow::AllowList;
pub use begin::{Begin, DeliverFrom};
pub use cover::cover_of_at_most;
pub use delivery::{DeliveryId, Failure, FailureClass, Outcome, Response};
pub use event::{Event, Header, Output, Position, StreamName, Verdict};
pub use health::{BreakerPolicy, HealthPolicy};
pub use job::{JobId, JobState, NewJob, NewTask, Wish};
pub use order::{HeadOfLine, KeySource, Order};
pub use owner::Owner;
pub use ranges::RangeSet;
pub use rate::{RateLimit, TokenBucket};
pub use retry::RetryPolicy;
pub use scope::{Scope, Scopes};
pub use subject::{Pattern, Subject};
pub use subscription::{
    ClientIdentity, Endpoint, EndpointTls, OnPluginError, PluginLimits, PluginRef, Subscription, SubscriptionId,
    Target, TlsVersion, WebhookSecret,
};
pub use webhook::{AnswerRules, BodyFormat, BodyKey, BodySignature, Ed25519Key, RequestShape, StatusRules};
