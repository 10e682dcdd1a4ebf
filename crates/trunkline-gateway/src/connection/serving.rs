//! A connection's task. It is polled by hand: an idle connection costs mostly this value, and what the compiler makes
//! of the same steps as an async function is twice as large.
//!
//! It decides nothing: the actor does, and what is rare in a connection's life (the close) is boxed when it comes.

use std::future::Future;
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use super::Actor;

/// A future that is boxed since it is rarely there.
pub(super) type Boxed<T> = Pin<Box<dyn Future<Output = T> + Send>>;

/// Serves one connection. Dropping it lets the connection go without a word.
pub(crate) struct Serving(Life);

enum Life {
    Running(Actor),
    Closing(Boxed<()>),
    Over,
}

impl Serving {
    pub(super) fn new(actor: Actor) -> Self {
        Serving(Life::Running(actor))
    }
}

impl Future for Serving {
    type Output = ();

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<()> {
        let Serving(life) = self.get_mut();
        loop {
            match life {
                Life::Running(actor) => {
                    let (code, reason) = ready!(actor.poll_run(cx));
                    if let Life::Running(actor) = std::mem::replace(life, Life::Over) {
                        *life = Life::Closing(actor.close(code, reason));
                    }
                }
                Life::Closing(closing) => {
                    ready!(closing.as_mut().poll(cx));
                    *life = Life::Over;
                }
                Life::Over => return Poll::Ready(()),
            }
        }
    }
}
