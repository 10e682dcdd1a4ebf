//! The nearest right key for a wrong one.

use super::catalogue::{ANY, entries};

/// The known path that a mistyped one most likely meant: `sever.http` → `listen.http`. `None` if nothing is near.
pub(crate) fn path(wrong: &[String]) -> Option<String> {
    let written = wrong.join(".");
    let known = entries().into_iter().map(|entry| {
        let parts = entry.path.iter().enumerate().map(|(at, part)| match wrong.get(at) {
            // The person's own name is right, whatever it is.
            Some(name) if part == ANY => name.clone(),
            _ => part.clone(),
        });
        parts.collect::<Vec<_>>().join(".")
    });
    let known: Vec<String> = known.collect();
    nearest(&written, known.iter().map(|path| (path.as_str(), path.as_str())))
        .or_else(|| {
            // The section is wrong, or forgotten: the key's own name may still be right.
            let leaf = |path: &str| path.rsplit('.').next().unwrap_or_default().to_owned();
            let leaves: Vec<(String, &String)> = known.iter().map(|path| (leaf(path), path)).collect();
            nearest(&leaf(&written), leaves.iter().map(|(leaf, path)| (leaf.as_str(), path.as_str())))
        })
        .map(str::to_owned)
}

/// The nearest of some names, e.g. of variables.
pub(crate) fn name(wrong: &str, known: &[String]) -> Option<String> {
    nearest(wrong, known.iter().map(|name| (name.as_str(), name.as_str()))).map(str::to_owned)
}

/// The answer whose word is nearest to `wrong`, if it is near enough to be what was meant: one slip in three letters.
fn nearest<'w, 'a>(wrong: &str, known: impl Iterator<Item = (&'w str, &'a str)>) -> Option<&'a str> {
    let distance = |word: &str| strsim::damerau_levenshtein(&wrong.to_lowercase(), word);
    let (word, answer) = known.min_by_key(|(word, _)| distance(&word.to_lowercase()))?;
    let near = distance(&word.to_lowercase()) * 3 <= word.chars().count().max(3);
    near.then_some(answer)
}
