//! What a bench and its generators tell each other: a line of JSON each, over standard input and output. Both are this
//! same program, so there are no versions.

use serde::{Deserialize, Serialize};

use crate::bench::clock::Moment;
use crate::bench::figures::Figures;

/// What a generator says.
#[derive(Debug, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(in crate::bench) enum Said {
    /// So many of its connections are there.
    Connected(u64),
    /// All of them are, and it waits for the word.
    Ready,
    /// So many publications have reached all of its subscribers.
    Heard(u64),
    /// One of its subscribers is gone: nobody need wait for it.
    Broken,
    /// Its part is done. Its processor time is read before it gets another word.
    Done,
    Figures(Box<Figures>),
    /// It cannot go on: why.
    Failed(String),
}

/// What it is told.
#[derive(Debug, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(in crate::bench) enum Word {
    /// All begin at this moment.
    Go(Moment),
    /// Nothing more comes; so many publications there were, where there were any.
    Over { published: u64 },
    /// When the machine itself was slow meanwhile, in order, and for which part of the time.
    Machine { slow: Vec<(Moment, Moment)>, share: f64 },
}
