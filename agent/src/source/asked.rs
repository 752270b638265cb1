//! What a reader asks of a document: which fields, and what it takes them for. Written down by `fields` when `schema` wants to
//! know; reading configuration leaves it out.

/// One question.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Asked {
    /// Whether this field is there.
    Field,
    /// It has to be there.
    Needed,
    /// Its value, as this.
    Value(Shape),
}

/// What a value is taken for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Shape {
    /// A text.
    Text,
    /// One of these texts.
    OneOf(Vec<String>),
    /// True or false.
    Flag,
    /// A whole number from the first to the second.
    Number(u32, u32),
    /// A list.
    List,
    /// An object with free keys.
    Entries,
    /// An object with known fields.
    Fields,
}
