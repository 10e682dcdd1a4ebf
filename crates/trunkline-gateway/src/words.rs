//! Texts that others wrote, on their way to a client: a service's reason, an authenticator's refusal. They are cut, so
//! that no frame grows beyond what its client takes because somebody had much to say.

use trunkline_proto::wire::ErrorMessage;

/// More than anybody reads in an error. Beside a frame's 2 MiB it is nothing, also as JSON with every byte escaped.
const MAX_BYTES: usize = 1024;

/// The beginning of a text, cut at a character.
pub(crate) fn cut(mut text: String) -> String {
    text.truncate(text.floor_char_boundary(MAX_BYTES));
    text
}

/// An error with its texts cut.
pub(crate) fn cut_error(error: ErrorMessage) -> ErrorMessage {
    ErrorMessage {
        error_message: cut(error.error_message),
        detail: cut(error.detail),
        name: cut(error.name),
        ..error
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_text_is_cut_at_a_character() {
        assert_eq!(cut("short".into()), "short");
        let long = cut(format!("a{}", "é".repeat(MAX_BYTES)));
        assert_eq!(long.len(), MAX_BYTES - 1);
        assert!(long.ends_with('é'));
    }
}
