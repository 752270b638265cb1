//! Objects for one host, by the namespaces that see them: a tenant is not kept waiting by what a thousand others have for the
//! same host.
//!
//! `registry` and the route tables of a snapshot are made of it. Knows nothing of the objects.

use std::{borrow::Borrow, collections::HashMap, sync::Arc};

use super::ExportTo;

/// The objects, in order of precedence.
#[derive(Clone, Debug)]
pub(crate) struct Exported<T> {
    all: Vec<T>,
    /// Indices of those that everyone sees, and of those that this namespace sees; ascending.
    to_everyone: Vec<usize>,
    to_namespace: HashMap<Arc<str>, Vec<usize>>,
}

impl<T> Default for Exported<T> {
    fn default() -> Self {
        Self { all: Vec::new(), to_everyone: Vec::new(), to_namespace: HashMap::new() }
    }
}

impl<T> Exported<T> {
    /// Adds one that comes after all others, and is seen by whom one of these means.
    pub(crate) fn push(&mut self, object: T, export_to: impl IntoIterator<Item = impl Borrow<ExportTo>>) {
        let index = self.all.len();
        self.all.push(object);
        for export_to in export_to {
            match export_to.borrow() {
                ExportTo::All => add(&mut self.to_everyone, index),
                ExportTo::Namespaces(list) => {
                    for namespace in list {
                        add(self.to_namespace.entry(Arc::clone(namespace)).or_default(), index);
                    }
                }
            }
        }
    }

    /// Those that one of these namespaces sees, in order.
    pub(crate) fn visible(&self, namespaces: &[&str; 2]) -> Visible<'_, T> {
        let [one, other] = namespaces
            .map(|namespace| self.to_namespace.get(namespace).map(Vec::as_slice).unwrap_or_default());
        Visible { all: &self.all, lists: [&self.to_everyone, one, other] }
    }

    /// All of them, in order.
    pub(crate) fn all(&self) -> &[T] {
        &self.all
    }
}

/// An object may be seen for several reasons.
fn add(list: &mut Vec<usize>, index: usize) {
    if list.last() != Some(&index) {
        list.push(index);
    }
}

/// Merges ascending lists of indices.
pub(crate) struct Visible<'m, T> {
    all: &'m [T],
    lists: [&'m [usize]; 3],
}

impl<'m, T> Iterator for Visible<'m, T> {
    type Item = &'m T;

    fn next(&mut self) -> Option<Self::Item> {
        let next = self.lists.iter().filter_map(|list| list.first()).min().copied()?;
        for list in &mut self.lists {
            if list.first() == Some(&next) {
                *list = &list[1..];
            }
        }
        self.all.get(next)
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use proptest::prelude::*;

    use super::Exported;
    use crate::mesh::ExportTo;

    fn export_to() -> impl Strategy<Value = ExportTo> {
        let names = prop::collection::vec(prop::sample::select(vec!["a", "b", "c"]), 0..4);
        let listed = |list: Vec<&str>| ExportTo::Namespaces(list.into_iter().map(Arc::from).collect());
        prop_oneof![1 => Just(ExportTo::All), 3 => names.prop_map(listed)]
    }

    proptest! {
        #[test]
        fn sees_what_asking_each_would_find(
            objects in prop::collection::vec(prop::collection::vec(export_to(), 1..3), 0..12),
            eyes in prop::sample::select(vec![["a", "a"], ["a", "b"], ["b", "a"], ["c", "d"], ["d", "d"]]),
        ) {
            let mut exported = Exported::default();
            for (number, export_to) in objects.iter().enumerate() {
                exported.push(number, export_to);
            }
            let found: Vec<_> = exported.visible(&eyes).copied().collect();
            let sees = |list: &Vec<ExportTo>| list.iter().any(|export_to| export_to.visible(&eyes));
            let expected: Vec<_> =
                objects.iter().enumerate().filter(|(_, list)| sees(list)).map(|(number, _)| number).collect();
            prop_assert_eq!(found, expected);
        }
    }
}
