//! Key/value pairs: the one shape in which values enter and leave a module.

use serde::{Deserialize, Serialize};

/// One key with its value; both are strings, as in Ion.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct KeyValuePair {
    /// The key; need not be unique within its list.
    pub key: String,
    /// The value.
    pub value: String,
}

/// A list of pairs, a JSON array of `{"key": …, "value": …}`: order and duplicates survive.
///
/// ```
/// use sidecar_core::KeyValuePairs;
/// let mut pairs = KeyValuePairs::default();
/// pairs.push("tag", "cat");
/// pairs.push("tag", "dog");
/// assert_eq!(pairs.get("tag"), Some("cat"));
/// assert_eq!(pairs.all("tag").collect::<Vec<_>>(), ["cat", "dog"]);
/// ```
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(transparent)]
pub struct KeyValuePairs(pub Vec<KeyValuePair>);

impl KeyValuePairs {
    /// Appends a pair.
    pub fn push(&mut self, key: impl Into<String>, value: impl Into<String>) {
        self.0.push(KeyValuePair { key: key.into(), value: value.into() });
    }

    /// The value of the first pair with this key.
    pub fn get(&self, key: &str) -> Option<&str> {
        self.all(key).next()
    }

    /// The values of all pairs with this key, in order.
    pub fn all(&self, key: &str) -> impl Iterator<Item = &str> {
        self.iter().filter(move |pair| pair.key == key).map(|pair| pair.value.as_str())
    }

    /// The pairs in order.
    pub fn iter(&self) -> std::slice::Iter<'_, KeyValuePair> {
        self.0.iter()
    }

    /// How many pairs there are.
    pub fn len(&self) -> usize {
        self.0.len()
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }
}

impl<K: Into<String>, V: Into<String>> FromIterator<(K, V)> for KeyValuePairs {
    fn from_iter<I: IntoIterator<Item = (K, V)>>(pairs: I) -> Self {
        let mut list = Self::default();
        pairs.into_iter().for_each(|(key, value)| list.push(key, value));
        list
    }
}

impl<'a> IntoIterator for &'a KeyValuePairs {
    type Item = &'a KeyValuePair;
    type IntoIter = std::slice::Iter<'a, KeyValuePair>;
    fn into_iter(self) -> Self::IntoIter {
        self.iter()
    }
}
