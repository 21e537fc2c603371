//! A jq expression: compiled once, run for each event.

use std::fmt::Write as _;

use jaq_core::data::JustLut;
use jaq_core::load::{self, Arena, File, Loader};
use jaq_core::{Ctx, Vars, compile};
use jaq_json::Val;
use sluiced_sdk::Error;

type Data = JustLut<Val>;

/// A compiled expression.
pub(crate) struct Program(jaq_core::Filter<Data>);

impl Program {
    /// Compiles an expression that may use these global variables (with their `$`).
    pub(crate) fn compile(expr: &str, vars: &[String]) -> Result<Self, Error> {
        let defs = jaq_core::defs().chain(jaq_std::defs()).chain(jaq_json::defs());
        let funs = jaq_core::funs().chain(jaq_std::funs()).chain(jaq_json::funs());
        let arena = Arena::default();
        let modules = Loader::new(defs)
            .load(&arena, File { code: expr, path: () })
            .map_err(|errors| explain(expr, first(errors).map(load_place)))?;
        jaq_core::Compiler::default()
            // There is no environment in the sandbox: better no `env` than an empty one.
            .with_funs(funs.filter(|(name, ..)| *name != "env"))
            .with_global_vars(vars.iter().map(String::as_str))
            .compile(modules)
            .map(Self)
            .map_err(|errors| explain(expr, first(errors).and_then(|errors| errors.into_iter().next().map(place))))
    }

    /// Runs it, with values for the global variables.
    pub(crate) fn run(
        &self,
        input: Val,
        vars: impl IntoIterator<Item = Val>,
    ) -> impl Iterator<Item = Result<Val, Error>> {
        let ctx = Ctx::<Data>::new(&self.0.lut, Vars::new(vars));
        self.0.id.run((ctx, input)).map(|output| {
            output.map_err(|exception| match exception.get_err() {
                Ok(error) => Error::new(error),
                // `halt` ends a jq process; here it must not end more than this event.
                Err(_) => Error::new("the expression called halt, which has no meaning here"),
            })
        })
    }
}

/// Where in the expression something is wrong, and what.
struct Place<'a> {
    message: String,
    found: &'a str,
}

fn first<E>(errors: load::Errors<&str, (), E>) -> Option<E> {
    errors.into_iter().next().map(|(_file, error)| error)
}

fn load_place(error: load::Error<&str>) -> Place<'_> {
    let unknown = || Place { message: "cannot be read".to_owned(), found: "" };
    match error {
        load::Error::Io(errors) => errors.into_iter().next().map_or_else(unknown, |(found, _)| Place {
            message: "include and import have no meaning here".to_owned(),
            found,
        }),
        load::Error::Lex(errors) => errors.into_iter().next().map_or_else(unknown, |(expected, found)| Place {
            message: format!("expected {}", expected.as_str()),
            found,
        }),
        load::Error::Parse(errors) => errors.into_iter().next().map_or_else(unknown, |(expected, found)| Place {
            message: format!("expected {}", expected.as_str()),
            found,
        }),
    }
}

fn place((found, undefined): compile::Error<&str>) -> Place<'_> {
    let mut message = format!("there is no {}", undefined.as_str());
    if let compile::Undefined::Filter(arity) = undefined {
        let _ = write!(message, " {found}/{arity}");
    } else {
        let _ = write!(message, " {found}");
    }
    Place { message, found }
}

/// Names the line and column, counted from 1 in characters, and the text found there.
fn explain(expr: &str, place: Option<Place<'_>>) -> Error {
    let Some(Place { message, found }) = place else {
        return Error::new("the expression cannot be compiled");
    };
    // What was found is a slice of the expression, except where it comes from the standard library.
    let offset = (found.as_ptr() as usize).checked_sub(expr.as_ptr() as usize).filter(|offset| *offset <= expr.len());
    let Some(before) = offset.and_then(|offset| expr.get(..offset)) else {
        return Error::new(message);
    };
    let line = before.matches('\n').count() + 1;
    let column = before.rsplit('\n').next().unwrap_or_default().chars().count() + 1;
    let rest = &expr[before.len()..];
    let rest = rest.lines().next().unwrap_or_default();
    let excerpt: String = rest.chars().take(EXCERPT_CHARS_MAX).collect();
    let excerpt = if excerpt.is_empty() { "the end".to_owned() } else { format!("`{excerpt}`") };
    Error::new(format!("{message} at line {line}, column {column}, at {excerpt}"))
}

/// How much of the expression an error quotes, in characters.
const EXCERPT_CHARS_MAX: usize = 32;
