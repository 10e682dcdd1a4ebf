//! The transport library beside what it is made of: the same work by [`stack::Stack`]s that differ in nothing else.
//!
//! Server and client are child processes of this program (`bench transport-peer`), new ones for each turn, so that the
//! processor time of each side is its own. The stacks take turns, A, B, C, A, B, C, since a machine is not the same from
//! one minute to the next. What a peer does with its connections is `load` and `serving`, how it does it is `ours` and
//! `bare`; `compare` is the parent. `stage` is without comparison: many connections at a pace. Nothing here knows a node.

mod bare;
mod compare;
mod handshakes;
mod load;
mod ours;
mod paced;
mod report;
mod serving;
mod stack;
mod stage;
mod times;

pub(crate) use compare::Compare;
pub(crate) use load::{Plan, run as load};
pub(crate) use paced::{Pace, run as pace};
pub(crate) use serving::serve;
pub(crate) use stack::{Over, Pattern, Stack};
pub(crate) use stage::Stage;
