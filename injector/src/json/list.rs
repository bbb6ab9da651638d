//! The items of a list, or the fields of an object.
//!
//! In: items. Out: the same items, lent where they are shared. Never: a copy before one of them is changed.

use std::borrow::Cow;
use std::ops::Deref;

use super::{Field, Json};

/// Items of one's own, or of somebody else until one of them is changed.
#[derive(Debug, Clone)]
pub enum List<'a, T> {
    /// One's own.
    Own(Vec<T>),
    /// Somebody else's.
    Of(&'a [T]),
    /// One's own, and how they are written.
    Written(Box<Written<T>>),
    /// Somebody else's, and how they are written.
    OfWritten(&'a Written<T>),
}

/// Items that are written again and again: their text is made once.
#[derive(Debug, Clone)]
pub struct Written<T> {
    /// The items.
    pub items: Vec<T>,
    /// Their JSON, brackets and all.
    pub text: String,
}

impl<'a, T> List<'a, T> {
    /// The same, lent.
    #[must_use]
    pub fn share(&'a self) -> Self {
        match self {
            Self::Own(items) => Self::Of(items),
            Self::Of(items) => Self::Of(items),
            Self::Written(written) => Self::OfWritten(written),
            Self::OfWritten(written) => Self::OfWritten(written),
        }
    }

    /// Their JSON, where it was made already.
    #[must_use]
    pub fn text(&self) -> Option<&str> {
        match self {
            Self::Own(_) | Self::Of(_) => None,
            Self::Written(written) => Some(&written.text),
            Self::OfWritten(written) => Some(&written.text),
        }
    }

    /// Whether they are the very same items, and so need no look.
    #[must_use]
    pub fn is(&self, other: &List<'_, T>) -> bool {
        std::ptr::eq(&raw const **self, &raw const **other)
    }

    /// The items as one's own, each shared by `share` where they aren't.
    fn own(&mut self, share: impl Fn(&'a T) -> T) -> &mut Vec<T> {
        let own = match std::mem::replace(self, Self::Of(&[])) {
            Self::Own(items) => items,
            Self::Written(written) => written.items,
            Self::Of(items) => items.iter().map(share).collect(),
            Self::OfWritten(written) => written.items.iter().map(share).collect(),
        };
        *self = Self::Own(own);
        match self {
            Self::Own(items) => items,
            _ => unreachable!("they were just made one's own"),
        }
    }
}

impl<T> Deref for List<'_, T> {
    type Target = [T];

    fn deref(&self) -> &[T] {
        match self {
            Self::Own(items) => items,
            Self::Of(items) => items,
            Self::Written(written) => &written.items,
            Self::OfWritten(written) => &written.items,
        }
    }
}

impl<T: PartialEq> PartialEq for List<'_, T> {
    fn eq(&self, other: &Self) -> bool {
        let (one, other) = (&**self, &**other);
        std::ptr::eq(one, other) || one == other
    }
}

impl<'a> List<'a, Json<'a>> {
    /// The items as one's own.
    pub fn to_mut(&mut self) -> &mut Vec<Json<'a>> {
        self.own(Json::share)
    }
}

impl<'a> List<'a, Field<'a>> {
    /// The fields as one's own.
    pub fn to_mut(&mut self) -> &mut Vec<Field<'a>> {
        self.own(|(name, value)| (Cow::Borrowed(&**name), value.share()))
    }
}
