//! `jq`: a jq expression as a filter or as a transform, on the `jaq` interpreter.
//!
//! The expression is compiled once, when the instance is configured. The payload is read straight into jaq's
//! values, and `$event` is built only for expressions that name it: most calls do nothing but read
//! the payload and run the expression.

mod meta;
mod program;
mod read;
mod write;

use jaq_json::Val;
use schemars::JsonSchema;
use serde::Deserialize;
use serde_json::{Map, Value};
use sluiced_sdk::{Context, Error, Event, Filter, Headers, Output, Plugin, Transform, Verdict};

use crate::program::Program;

/// What a subscription says about this plugin.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Config {
    /// The jq expression. Its input is the payload; `$event` has id, type, subject, stream, sequence, time_ms,
    /// content_type and headers (an object with lower-case names).
    pub expr: String,
    /// Values for the expression, by name: `{"min": 100}` is `$min`.
    #[serde(default)]
    pub vars: Map<String, Value>,
}

/// A compiled expression, with its constant variables.
pub struct Jq {
    program: Program,
    names_event: bool,
    vars: Vec<Val>,
}

impl Plugin for Jq {
    type Config = Config;

    const SUMMARY: &'static str = "Filters and transforms JSON events with a jq expression.";
    const NEEDS_HEADERS: Headers = Headers::All;

    fn new(config: Config) -> Result<Self, Error> {
        let mut names = vec![EVENT_VAR.to_owned()];
        let mut vars = Vec::with_capacity(config.vars.len());
        for (name, value) in config.vars {
            names.push(variable_name(&name)?);
            vars.push(meta::value(&value)?);
        }
        let program = Program::compile(&config.expr, &names).context("`expr`")?;
        // Text that merely looks like the variable costs some time and does no harm.
        Ok(Self { program, names_event: config.expr.contains(EVENT_VAR), vars })
    }
}

impl Jq {
    /// Runs the expression and hands each output over, until `take` says that it has enough.
    fn run(&self, event: &Event, mut take: impl FnMut(Val) -> Result<Flow, Error>) -> Result<(), Error> {
        let input = read::json(&event.data).context("the payload is not JSON")?;
        let event = if self.names_event { meta::event(event) } else { Val::Null };
        let vars = std::iter::once(event).chain(self.vars.iter().cloned());
        for output in self.program.run(input, vars) {
            if let Flow::Stop = take(output?)? {
                break;
            }
        }
        Ok(())
    }
}

impl Filter for Jq {
    fn keep(&mut self, event: &Event) -> Result<Verdict, Error> {
        let mut verdict = Verdict::drop_because("the expression gave no output");
        self.run(event, |output| {
            verdict = match output {
                Val::Null => Verdict::drop_because("the expression gave null"),
                Val::Bool(false) => Verdict::drop_because("the expression gave false"),
                _ => Verdict::Keep,
            };
            Ok(Flow::Stop)
        })?;
        Ok(verdict)
    }
}

impl Transform for Jq {
    fn apply(&mut self, event: Event) -> Result<Vec<Output>, Error> {
        let mut outputs = Vec::new();
        // An output takes about the room of its input at most, in most cases.
        let capacity = event.data.len();
        self.run(&event, |output| {
            let mut data = Vec::with_capacity(capacity);
            write::json(&mut data, &output)?;
            outputs.push(Output::bytes(data).content_type("application/json"));
            Ok(Flow::Go)
        })?;
        Ok(outputs)
    }
}

sluiced_sdk::export!(filter + transform: Jq);

const EVENT_VAR: &str = "$event";

enum Flow {
    Go,
    Stop,
}

fn variable_name(name: &str) -> Result<String, Error> {
    let starts_well = name.starts_with(|c: char| c.is_ascii_alphabetic() || c == '_');
    if !starts_well || !name.chars().all(|c| c.is_ascii_alphanumeric() || c == '_') {
        return Err(Error::new(format!("`vars`: {name:?} is not the name of a variable: use letters, digits and _")));
    }
    if name == "event" || name == "__loc__" || name == "ENV" {
        return Err(Error::new(format!("`vars`: the name {name:?} is taken: use another")));
    }
    Ok(format!("${name}"))
}

#[cfg(test)]
mod tests;
