//! Sessions against an in-process gateway, through real connections: one module for each behaviour.

#[path = "../support/mod.rs"]
mod support;

mod events;
mod hung_authorizer;
mod operations;
mod presence;
mod refresh;
mod rights;
mod seed;
mod stops;
