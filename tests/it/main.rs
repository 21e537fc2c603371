//! The integration tests: one binary, one module a concern.

mod harness;
mod tidy;
