//! What a command shows of bytes and texts from elsewhere: safe for a terminal, exact as JSON.

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use serde_json::{Map, Value, json};
use trunkline_client::{Position, Push, Reply};

/// One line of a text: control characters, with which somebody else could move the cursor or end the line, are escaped.
pub(crate) fn line(text: &str) -> String {
    let mut shown = String::with_capacity(text.len());
    for c in text.chars() {
        if c.is_control() {
            shown.extend(c.escape_default());
        } else {
            shown.push(c);
        }
    }
    shown
}

/// One line of any bytes: their text, or how many they are.
pub(crate) fn data(bytes: &[u8]) -> String {
    match std::str::from_utf8(bytes) {
        Ok(text) => line(text),
        Err(_) => format!("<{} bytes>", bytes.len()),
    }
}

/// Bytes as members of a JSON object: `data` where they are JSON, else `data_text`, else `data_base64`.
pub(crate) fn put_data(object: &mut Map<String, Value>, bytes: &[u8]) {
    if bytes.is_empty() {
        return;
    }
    let (name, value) = match (serde_json::from_slice(bytes), std::str::from_utf8(bytes)) {
        (Ok(json), _) => ("data", json),
        (Err(_), Ok(text)) => ("data_text", json!(text)),
        (Err(_), Err(_)) => ("data_base64", json!(STANDARD.encode(bytes))),
    };
    object.insert(name.to_owned(), value);
}

/// A position as members of a JSON object.
pub(crate) fn put_position(object: &mut Map<String, Value>, position: &Position) {
    object.insert("channel".to_owned(), json!(position.channel));
    object.insert("epoch".to_owned(), json!(position.epoch));
    object.insert("offset".to_owned(), json!(position.offset));
}

/// A push as a JSON object.
pub(crate) fn push(push: &Push) -> Map<String, Value> {
    let mut object = Map::new();
    if let Some(position) = &push.position {
        put_position(&mut object, position);
    }
    for (name, text) in [("type", &push.msg_type), ("title", &push.title), ("content", &push.content)] {
        if !text.is_empty() {
            object.insert(name.to_owned(), json!(text));
        }
    }
    put_data(&mut object, &push.data);
    if !push.metadata.is_empty() {
        object.insert("metadata".to_owned(), json!(push.metadata));
    }
    object
}

/// A push as one line, without its place.
pub(crate) fn push_line(push: &Push) -> String {
    let mut shown = format!("[{}]", line(&push.msg_type));
    for text in [line(&push.title), line(&push.content), data(&push.data)] {
        if !text.is_empty() {
            shown.push(' ');
            shown.push_str(&text);
        }
    }
    shown
}

/// A reply as a JSON object.
pub(crate) fn reply(reply: &Reply) -> Value {
    let mut object = Map::new();
    object.insert("code".to_owned(), json!(reply.code));
    object.insert("message".to_owned(), json!(reply.message));
    put_data(&mut object, &reply.data);
    if !reply.headers.is_empty() {
        object.insert("headers".to_owned(), json!(reply.headers));
    }
    for (name, pushes) in [("before", &reply.before), ("after", &reply.after)] {
        if !pushes.is_empty() {
            let pushes: Vec<Value> = pushes.iter().map(|one| Value::Object(push(one))).collect();
            object.insert(name.to_owned(), Value::Array(pushes));
        }
    }
    Value::Object(object)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_others_send_cannot_steer_a_terminal() {
        assert_eq!(line("a\u{1b}[2J\nb\u{9b}é"), "a\\u{1b}[2J\\nb\\u{9b}é");
        assert_eq!(data(&[0xff, 0]), "<2 bytes>");
    }

    #[test]
    fn bytes_are_json_text_or_base64() {
        let shown = |bytes: &[u8]| {
            let mut object = Map::new();
            put_data(&mut object, bytes);
            Value::Object(object)
        };
        assert_eq!(shown(b"{\"a\": 1}"), json!({ "data": { "a": 1 } }));
        assert_eq!(shown(b"hello"), json!({ "data_text": "hello" }));
        assert_eq!(shown(&[0xff]), json!({ "data_base64": "/w==" }));
        assert_eq!(shown(b""), json!({}));
    }
}
