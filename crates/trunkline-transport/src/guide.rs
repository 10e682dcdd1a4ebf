//! Pages that are longer than what one item has to say of itself. There is no code here.

#[doc = include_str!("../docs/transport.md")]
pub mod policies {}

// The first definition of a link is the one that counts: the page has its own for where it lies in the repository.
#[doc = "[policies]: crate::guide::policies\n"]
#[doc = include_str!("../docs/msgtrans.md")]
pub mod from_msgtrans {}
