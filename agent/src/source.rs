//! Where configuration comes from, and what was wrong with it.
//!
//! Sources feed objects into one index; the index compiles to a [`Snapshot`](crate::mesh::Snapshot). `app` starts a source and hands out the
//! receiver; `cli::check` loads once.

pub mod api;
mod asked;
pub mod codes;
pub mod crds;
pub mod directory;
mod document;
mod fields;
pub mod following;
pub mod index;
mod kinds;
mod lint;
mod node;
pub mod report;
mod scalars;
mod schema;
#[cfg(test)]
pub(crate) mod tests;
