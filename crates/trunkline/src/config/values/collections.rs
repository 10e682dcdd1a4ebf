//! Lists and tables, each read from TOML or from text, and the members of a table that is an item of a list.

use std::collections::BTreeMap;

use toml::Value;

use super::super::setting::{Setting, refusal};

/// An item of a list.
pub(crate) trait Item: Setting {
    /// What the whole list is, for people.
    fn wanted_list() -> String;
}

impl Item for String {
    fn wanted_list() -> String {
        "a list of texts, such as [\"a\", \"b\"]".to_owned()
    }
}

impl<T: Item> Setting for Vec<T> {
    fn wanted() -> String {
        T::wanted_list()
    }

    fn read(value: &Value) -> Result<Self, String> {
        match value {
            Value::Array(items) => items.iter().map(T::read).collect(),
            Value::String(text) if text.trim_start().starts_with('[') => {
                Self::read(&written_as_toml::<Self>(text)?)
            }
            Value::String(text) if text.trim().is_empty() => Ok(Vec::new()),
            // The environment's short form: names without brackets and quotes.
            Value::String(text) => {
                text.split(',').map(|item| T::read(&Value::String(item.trim().to_owned()))).collect()
            }
            _ => Err(refusal::<Self>(value)),
        }
    }

    fn show(&self) -> Option<String> {
        let items: Vec<String> = self.iter().filter_map(T::show).collect();
        Some(format!("[{}]", items.join(", ")))
    }
}

impl Setting for BTreeMap<String, String> {
    fn wanted() -> String {
        "a table of texts, such as { \"a\" = \"b\" }".to_owned()
    }

    fn read(value: &Value) -> Result<Self, String> {
        match value {
            Value::Table(table) => {
                let entry = |(name, value): (&String, &Value)| {
                    let text = String::read(value).map_err(|problem| format!("{name}: {problem}"))?;
                    Ok((name.clone(), text))
                };
                table.iter().map(entry).collect()
            }
            Value::String(text) => match written_as_toml::<Self>(text)? {
                table @ Value::Table(_) => Self::read(&table),
                _ => Err(refusal::<Self>(value)),
            },
            _ => Err(refusal::<Self>(value)),
        }
    }

    fn show(&self) -> Option<String> {
        let quote = |text: &String| Value::String(text.clone()).to_string();
        let entries: Vec<String> =
            self.iter().map(|(name, value)| format!("{} = {}", quote(name), quote(value))).collect();
        if entries.is_empty() {
            return Some("{}".to_owned());
        }
        Some(format!("{{ {} }}", entries.join(", ")))
    }
}

/// A text that holds a list or a table, as the environment has to write them.
fn written_as_toml<T: Setting>(text: &str) -> Result<Value, String> {
    let document: Result<toml::Table, _> = toml::from_str(&format!("value = {text}"));
    document
        .ok()
        .and_then(|mut document| document.remove("value"))
        .ok_or_else(|| format!("wanted {} written as TOML, got {text:?}", T::wanted()))
}

/// The members of a table in a list, taken one by one, so that what is left over is known to be wrong.
pub(crate) struct Members {
    table: toml::Table,
    known: Vec<&'static str>,
    problems: Vec<String>,
}

impl Members {
    pub(crate) fn of<T: Setting>(value: &Value) -> Result<Self, String> {
        match value {
            Value::Table(table) => {
                Ok(Members { table: table.clone(), known: Vec::new(), problems: Vec::new() })
            }
            _ => Err(refusal::<T>(value)),
        }
    }

    /// A member that may be left out.
    pub(crate) fn optional<T: Setting>(&mut self, name: &'static str) -> Option<T> {
        self.known.push(name);
        let value = self.table.remove(name)?;
        T::read(&value).map_err(|problem| self.problems.push(format!("{name}: {problem}"))).ok()
    }

    /// A member that has to be there. The stand-in is never used: [`Members::finish`] fails then.
    pub(crate) fn required<T: Setting + Default>(&mut self, name: &'static str) -> T {
        if !self.table.contains_key(name) {
            self.problems.push(format!("{name} is missing: wanted {}", T::wanted()));
        }
        self.optional(name).unwrap_or_default()
    }

    /// All that was wrong, or the value.
    pub(crate) fn finish<T>(mut self, value: T) -> Result<T, String> {
        for unknown in self.table.keys() {
            self.problems
                .push(format!("unknown member {unknown}: the members are {}", self.known.join(", ")));
        }
        if self.problems.is_empty() { Ok(value) } else { Err(self.problems.join("; ")) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn text(text: &str) -> Value {
        Value::String(text.to_owned())
    }

    #[test]
    fn lists_and_tables_can_be_written_in_the_environment() {
        let both = Ok(vec!["a".to_owned(), "b".to_owned()]);
        assert_eq!(Vec::<String>::read(&text("a, b")), both);
        assert_eq!(Vec::<String>::read(&text("[\"a\", \"b\"]")), both);
        assert!(Vec::<String>::read(&text("[\"a\"")).is_err());
        let map = BTreeMap::from([("echo.".to_owned(), "echo".to_owned())]);
        assert_eq!(BTreeMap::read(&text("{ \"echo.\" = \"echo\" }")), Ok(map));
        assert!(BTreeMap::read(&text("echo")).is_err());
    }
}
