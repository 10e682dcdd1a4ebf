//! What a log promises, alone: reading, gaps, encoding once, parking.

mod concurrency;
mod model;
mod reading;
mod support;
mod waiting;
