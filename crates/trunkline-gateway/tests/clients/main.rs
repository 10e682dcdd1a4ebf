//! Clients against an in-process gateway whose limits are small: what is refused, closed, freed and told, one module for
//! each behaviour.

#[path = "../support/mod.rs"]
mod support;

mod crowds;
mod refresh;
mod replies;
mod seed;
mod slow;
mod starts;
mod tokens;
