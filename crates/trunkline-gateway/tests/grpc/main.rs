//! The gRPC surface against an in-process gateway, real clients and real upstreams: one module for each behaviour.

#[path = "../support/mod.rs"]
mod support;

mod batch;
mod bound;
mod broadcast;
mod channels;
mod counters;
mod limits;
mod ordering;
mod outcomes;
mod peers;
mod sizes;
mod upstreams;
