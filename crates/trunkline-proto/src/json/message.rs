//! One message as a JSON object: how each kind of field is written and read.
//!
//! A message is described once, in `table`, and that description serves both directions. It does not know
//! which messages exist.

use std::borrow::Cow;
use std::collections::HashMap;
use std::fmt;
use std::io::Write;
use std::marker::PhantomData;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use bytes::Bytes;
use serde::de::{DeserializeSeed, Error as _, MapAccess, Visitor};
use serde::{Deserialize, Deserializer};
use serde_json::value::RawValue;

/// What every JavaScript number can hold exactly; a larger one would change on its way.
const MAX_EXACT: u64 = (1 << 53) - 1;

/// `data` nested deeper travels as base64: parsers with a recursive reader (Python's allows about 1,000 calls,
/// serde_json 128 levels) must not fail on a frame because of what somebody else published in it.
const MAX_DATA_DEPTH: u32 = 64;

/// A message that this dialect can write and read.
pub(super) trait JsonMessage {
    /// Writes the members that are not defaults.
    fn write_members(&self, object: &mut Object<'_>);
    /// Reads one member's value, if the message has a member of that name.
    fn read_member(&mut self, name: &str, value: &RawValue) -> serde_json::Result<()>;
}

/// Whether a member that has its default value is written all the same.
#[derive(Clone, Copy, PartialEq)]
pub(super) enum Presence {
    Always,
    UnlessDefault,
}

/// How a field of Rust type `T` looks in JSON.
pub(super) trait Kind<T> {
    fn write(object: &mut Object<'_>, name: &str, value: &T, presence: Presence);
    /// Takes the member if `name` is (one of) the field's.
    fn read(field: &str, name: &str, value: &RawValue, target: &mut T) -> serde_json::Result<bool>;
}

/// Reads a whole message.
pub(super) fn parse<M: JsonMessage + Default>(text: &str) -> serde_json::Result<M> {
    let mut reader = serde_json::Deserializer::from_str(text);
    let message = MessageSeed(PhantomData).deserialize(&mut reader)?;
    reader.end()?;
    Ok(message)
}

/// A number of at most 53 bits.
#[derive(Default, Clone, Copy)]
pub(super) struct Exact<T>(pub(super) T);

impl<'de> Deserialize<'de> for Exact<u64> {
    fn deserialize<D: Deserializer<'de>>(from: D) -> Result<Self, D::Error> {
        let number = u64::deserialize(from)?;
        if number > MAX_EXACT { Err(D::Error::custom("above 2^53")) } else { Ok(Exact(number)) }
    }
}

impl<'de> Deserialize<'de> for Exact<i64> {
    fn deserialize<D: Deserializer<'de>>(from: D) -> Result<Self, D::Error> {
        let number = i64::deserialize(from)?;
        if number.unsigned_abs() > MAX_EXACT {
            Err(D::Error::custom("above 2^53"))
        } else {
            Ok(Exact(number))
        }
    }
}

/// Writes one JSON object, member by member.
pub(super) struct Object<'a> {
    out: &'a mut Vec<u8>,
    empty: bool,
}

impl<'a> Object<'a> {
    pub(super) fn begin(out: &'a mut Vec<u8>) -> Self {
        out.push(b'{');
        Object { out, empty: true }
    }

    pub(super) fn end(self) {
        self.out.push(b'}');
    }

    /// Writes the member's name; the caller writes its value.
    pub(super) fn value(&mut self, name: &str) -> &mut Vec<u8> {
        if !self.empty {
            self.out.push(b',');
        }
        self.empty = false;
        write_text(self.out, name);
        self.out.push(b':');
        self.out
    }

    pub(super) fn text(&mut self, name: &str, text: &str) {
        write_text(self.value(name), text);
    }

    pub(super) fn number(&mut self, name: &str, number: impl fmt::Display) {
        write_number(self.value(name), number);
    }

    /// In the order of its names, so that one frame has one encoding.
    pub(super) fn map(&mut self, name: &str, map: &HashMap<String, String>) {
        let mut pairs: Vec<_> = map.iter().collect();
        pairs.sort_unstable();
        let mut object = Object::begin(self.value(name));
        for (key, value) in pairs {
            object.text(key, value);
        }
        object.end();
    }

    /// A nested message, left out where it has no members.
    pub(super) fn message(&mut self, name: &str, message: &dyn JsonMessage) {
        let (before, was_empty) = (self.out.len(), self.empty);
        let mut object = Object::begin(self.value(name));
        message.write_members(&mut object);
        let nothing = object.empty;
        object.end();
        if nothing {
            self.out.truncate(before);
            self.empty = was_empty;
        }
    }
}

/// Strings, 32-bit numbers and flags.
pub(super) struct Plain;
/// 64-bit numbers, which stay under 2^53.
pub(super) struct Number;
/// Names and values.
pub(super) struct Pairs;
/// A nested message.
pub(super) struct Nested;
/// A list of messages.
pub(super) struct List;
/// A number that the schema names, by that name in lower case.
pub(super) struct Word<E>(PhantomData<E>);
/// `bytes` as base64.
pub(super) struct Base64;
/// `bytes data`: any JSON value as it is, or else `data_base64`.
pub(super) struct Data;

/// The schema's enums, generated.
pub(super) trait Named: Sized + Copy + Into<i32> {
    fn name(number: i32) -> Option<&'static str>;
    fn parse(upper: &str) -> Option<Self>;
}

macro_rules! plain {
    ($($type:ty => |$object:ident, $name:ident, $value:ident| $write:expr;)+) => {$(
        impl Kind<$type> for Plain {
            fn write($object: &mut Object<'_>, $name: &str, $value: &$type, presence: Presence) {
                if presence == Presence::Always || *$value != <$type>::default() {
                    $write;
                }
            }
            fn read(field: &str, name: &str, value: &RawValue, target: &mut $type) -> serde_json::Result<bool> {
                if field == name {
                    *target = optional::<$type>(value)?;
                }
                Ok(field == name)
            }
        }
    )+};
}

plain! {
    String => |object, name, value| object.text(name, value);
    u32 => |object, name, value| object.number(name, value);
    i32 => |object, name, value| object.number(name, value);
    bool => |object, name, value| object.number(name, value);
}

macro_rules! number {
    ($($type:ty),+) => {$(
        impl Kind<$type> for Number {
            fn write(object: &mut Object<'_>, name: &str, value: &$type, presence: Presence) {
                if presence == Presence::Always || *value != 0 {
                    object.number(name, value);
                }
            }
            fn read(field: &str, name: &str, value: &RawValue, target: &mut $type) -> serde_json::Result<bool> {
                if field == name {
                    *target = optional::<Exact<$type>>(value)?.0;
                }
                Ok(field == name)
            }
        }
    )+};
}

number!(u64, i64);

impl Kind<HashMap<String, String>> for Pairs {
    fn write(object: &mut Object<'_>, name: &str, value: &HashMap<String, String>, _: Presence) {
        if !value.is_empty() {
            object.map(name, value);
        }
    }
    fn read(
        field: &str,
        name: &str,
        value: &RawValue,
        target: &mut HashMap<String, String>,
    ) -> serde_json::Result<bool> {
        if field == name {
            *target = optional(value)?;
        }
        Ok(field == name)
    }
}

impl<M: JsonMessage + Default> Kind<Option<M>> for Nested {
    fn write(object: &mut Object<'_>, name: &str, value: &Option<M>, _: Presence) {
        if let Some(message) = value {
            let mut nested = Object::begin(object.value(name));
            message.write_members(&mut nested);
            nested.end();
        }
    }
    fn read(field: &str, name: &str, value: &RawValue, target: &mut Option<M>) -> serde_json::Result<bool> {
        if field == name {
            *target = if value.get() == "null" { None } else { Some(parse(value.get())?) };
        }
        Ok(field == name)
    }
}

impl<M: JsonMessage + Default> Kind<Vec<M>> for List {
    fn write(object: &mut Object<'_>, name: &str, value: &Vec<M>, _: Presence) {
        if value.is_empty() {
            return;
        }
        let out = object.value(name);
        out.push(b'[');
        for (at, message) in value.iter().enumerate() {
            if at > 0 {
                out.push(b',');
            }
            let mut nested = Object::begin(out);
            message.write_members(&mut nested);
            nested.end();
        }
        out.push(b']');
    }
    fn read(field: &str, name: &str, value: &RawValue, target: &mut Vec<M>) -> serde_json::Result<bool> {
        if field == name {
            let items: Vec<&RawValue> = optional(value)?;
            *target = items.into_iter().map(|item| parse(item.get())).collect::<Result<_, _>>()?;
        }
        Ok(field == name)
    }
}

impl<E: Named> Kind<i32> for Word<E> {
    /// A number without a name is left out, like the default.
    fn write(object: &mut Object<'_>, name: &str, value: &i32, presence: Presence) {
        if let Some(word) = E::name(*value).filter(|_| presence == Presence::Always || *value != 0) {
            object.text(name, &word.to_ascii_lowercase());
        }
    }
    fn read(field: &str, name: &str, value: &RawValue, target: &mut i32) -> serde_json::Result<bool> {
        if field != name {
            return Ok(false);
        }
        if let Some(word) = serde_json::from_str::<Option<Cow<'_, str>>>(value.get())? {
            let named = E::parse(&word.to_ascii_uppercase());
            *target = named.ok_or_else(|| serde_json::Error::custom("no such word"))?.into();
        }
        Ok(true)
    }
}

impl Kind<Bytes> for Base64 {
    fn write(object: &mut Object<'_>, name: &str, value: &Bytes, _: Presence) {
        if !value.is_empty() {
            object.text(name, &STANDARD.encode(value));
        }
    }
    fn read(field: &str, name: &str, value: &RawValue, target: &mut Bytes) -> serde_json::Result<bool> {
        if field == name {
            let text: Cow<'_, str> = optional(value)?;
            let decoded = STANDARD.decode(text.as_bytes());
            *target = decoded.map_err(|_| serde_json::Error::custom("not base64"))?.into();
        }
        Ok(field == name)
    }
}

/// Written as `data` or `data_base64`, whatever the field is called.
impl Kind<Bytes> for Data {
    fn write(object: &mut Object<'_>, name: &str, value: &Bytes, presence: Presence) {
        match one_json_value(value) {
            Some(json) => object.value(name).extend_from_slice(json.as_bytes()),
            None => Base64::write(object, "data_base64", value, presence),
        }
    }
    fn read(field: &str, name: &str, value: &RawValue, target: &mut Bytes) -> serde_json::Result<bool> {
        if name != field && name != "data_base64" {
            return Ok(false);
        }
        if !target.is_empty() {
            return Err(serde_json::Error::custom("both data and data_base64"));
        }
        if name == field {
            *target = Bytes::copy_from_slice(value.get().as_bytes());
            return Ok(true);
        }
        Base64::read("data_base64", name, value, target)
    }
}

/// The bytes as text if they are exactly one JSON value, without white space around it (a reader could not
/// give that back), and not nested beyond [`MAX_DATA_DEPTH`]. What the value means is not looked at: repeated
/// keys, lone surrogates and numbers of any size pass as they are.
fn one_json_value(bytes: &[u8]) -> Option<&str> {
    let text = std::str::from_utf8(bytes).ok()?;
    let value: &RawValue = serde_json::from_str(text).ok()?;
    (value.get().len() == text.len() && depth(bytes) <= MAX_DATA_DEPTH).then_some(text)
}

/// The deepest nesting of a valid JSON value.
fn depth(json: &[u8]) -> u32 {
    let (mut depth, mut deepest, mut in_text, mut escaped) = (0_u32, 0, false, false);
    for byte in json {
        match byte {
            _ if escaped => escaped = false,
            b'\\' => escaped = in_text,
            b'"' => in_text = !in_text,
            _ if in_text => {}
            b'[' | b'{' => {
                depth += 1;
                deepest = deepest.max(depth);
            }
            b']' | b'}' => depth = depth.saturating_sub(1),
            _ => {}
        }
    }
    deepest
}

fn optional<'de, T: Deserialize<'de> + Default>(value: &'de RawValue) -> serde_json::Result<T> {
    Ok(serde_json::from_str::<Option<T>>(value.get())?.unwrap_or_default())
}

fn write_text(out: &mut Vec<u8>, text: &str) {
    let written = serde_json::to_writer(out, text);
    debug_assert!(written.is_ok(), "a vector takes every write, and a str is always valid JSON text");
}

fn write_number(out: &mut Vec<u8>, number: impl fmt::Display) {
    let written = write!(out, "{number}");
    debug_assert!(written.is_ok(), "a vector takes every write");
}

struct MessageSeed<M>(PhantomData<M>);

impl<'de, M: JsonMessage + Default> DeserializeSeed<'de> for MessageSeed<M> {
    type Value = M;
    fn deserialize<D: Deserializer<'de>>(self, from: D) -> Result<M, D::Error> {
        from.deserialize_map(self)
    }
}

impl<'de, M: JsonMessage + Default> Visitor<'de> for MessageSeed<M> {
    type Value = M;
    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("an object")
    }
    fn visit_map<A: MapAccess<'de>>(self, mut members: A) -> Result<M, A::Error> {
        let mut message = M::default();
        while let Some(name) = members.next_key::<Name<'de>>()? {
            let value = members.next_value::<&'de RawValue>()?;
            message.read_member(&name.0, value).map_err(A::Error::custom)?;
        }
        Ok(message)
    }
}

#[derive(Deserialize)]
struct Name<'a>(#[serde(borrow)] Cow<'a, str>);
