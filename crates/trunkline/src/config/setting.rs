//! What a key of the configuration is: a name, its documentation, and how a value becomes a typed field.
//!
//! `section!` declares a struct once, and from that one declaration come its fields, its defaults, the parser, the
//! names in the environment, the file that `trunkline init` writes and the table in `docs/configuration.md`. So
//! none of them can disagree with another. This module knows no particular key and no source of values.

use toml::Value;

/// A type that a key can have.
pub(crate) trait Setting: Sized {
    /// What is accepted, in words that complete "wanted …".
    fn wanted() -> String;

    /// Reads a value. A source that has only text (the environment, a flag) gives a string for every type.
    ///
    /// # Errors
    /// What is wrong with the value, in words for the person who wrote it.
    fn read(value: &Value) -> Result<Self, String>;

    /// The value as TOML, or `None` for one that is not set.
    fn show(&self) -> Option<String>;
}

/// One key of the section `S`.
pub(crate) struct Key<S: 'static> {
    pub(crate) name: &'static str,
    pub(crate) doc: &'static [&'static str],
    pub(crate) wanted: fn() -> String,
    pub(crate) set: fn(&mut S, &Value) -> Result<(), String>,
    pub(crate) show: fn(&S) -> Option<String>,
    pub(crate) same: fn(&S, &S) -> bool,
    /// Into the first from the second.
    pub(crate) copy: fn(&mut S, &S),
}

/// A struct whose fields are keys.
pub(crate) trait Section: Default + 'static {
    const DOC: &'static [&'static str];
    const KEYS: &'static [Key<Self>];

    /// The key with this name.
    fn key(name: &str) -> Option<&'static Key<Self>> {
        Self::KEYS.iter().find(|key| key.name == name)
    }
}

/// Declares a section: a struct whose fields have documentation and a default.
macro_rules! section {
    ($(#[doc = $doc:literal])* struct $name:ident {
        $($(#[doc = $field_doc:literal])* $field:ident: $type:ty = $default:expr,)*
    }) => {
        $(#[doc = $doc])*
        #[derive(Debug, Clone, PartialEq)]
        pub(crate) struct $name {
            $($(#[doc = $field_doc])* pub(crate) $field: $type,)*
        }

        impl Default for $name {
            fn default() -> Self {
                $name { $($field: $default,)* }
            }
        }

        impl $crate::config::setting::Section for $name {
            const DOC: &'static [&'static str] = &[$($doc),*];
            const KEYS: &'static [$crate::config::setting::Key<Self>] = &[$($crate::config::setting::Key {
                name: stringify!($field),
                doc: &[$($field_doc),*],
                wanted: <$type as $crate::config::setting::Setting>::wanted,
                set: |section, value| {
                    section.$field = $crate::config::setting::Setting::read(value)?;
                    Ok(())
                },
                show: |section| $crate::config::setting::Setting::show(&section.$field),
                same: |one, other| one.$field == other.$field,
                copy: |to, from| to.$field = from.$field.clone(),
            }),*];
        }
    };
}

/// Declares a choice between words.
macro_rules! words {
    ($(#[doc = $doc:literal])* enum $name:ident {
        $($(#[doc = $word_doc:literal])* $variant:ident = $word:literal,)*
    }) => {
        $(#[doc = $doc])*
        #[derive(Debug, Clone, Copy, PartialEq, Eq)]
        pub(crate) enum $name {
            $($(#[doc = $word_doc])* $variant,)*
        }

        impl $name {
            /// Every word.
            #[allow(dead_code, reason = "not every choice is listed somewhere")]
            pub(crate) const ALL: [$name; [$($name::$variant),*].len()] = [$($name::$variant),*];

            /// The word in the configuration.
            pub(crate) const fn as_str(self) -> &'static str {
                match self {
                    $($name::$variant => $word,)*
                }
            }
        }

        impl $crate::config::setting::Setting for $name {
            fn wanted() -> String {
                $crate::config::setting::one_of(&[$($word),*])
            }

            fn read(value: &toml::Value) -> Result<Self, String> {
                match value.as_str() {
                    $(Some($word) => Ok($name::$variant),)*
                    _ => Err($crate::config::setting::refusal::<Self>(value)),
                }
            }

            fn show(&self) -> Option<String> {
                $crate::config::setting::Setting::show(&self.as_str().to_owned())
            }
        }
    };
}

pub(crate) use {section, words};

/// `"a", "b" or "c"`.
pub(crate) fn one_of(words: &[&str]) -> String {
    let quoted: Vec<String> = words.iter().map(|word| format!("{word:?}")).collect();
    match quoted.split_last() {
        Some((last, rest)) if !rest.is_empty() => format!("{} or {last}", rest.join(", ")),
        _ => quoted.concat(),
    }
}

/// The sentence for a value that is of the wrong kind.
pub(crate) fn refusal<T: Setting>(value: &Value) -> String {
    let got = match value {
        Value::Table(_) => "a table".to_owned(),
        Value::Array(_) => "a list".to_owned(),
        other => other.to_string(),
    };
    format!("wanted {}, got {got}", T::wanted())
}
