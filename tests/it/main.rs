//! The integration tests.

mod plugins;
