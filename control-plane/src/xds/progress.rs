//! How far one kind of one stream is. Pure.
//!
//! Enters: what was said of which catalog, and answers. Leaves: the newest catalog of which everything was said and answered. Never: a
//! catalog that a part of is still on its way: changes that come all the time must not hide that older ones have arrived.

/// How far one kind of one stream is.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Progress {
    answered: u64,
    /// The catalog that is answered with the response on its way; `None`: there is none, or it is a part only.
    on_its_way: Option<u64>,
}

impl Progress {
    /// A response of a catalog was sent; `whole`: it leaves nothing unsaid.
    pub fn sent(&mut self, catalog: u64, whole: bool) {
        self.on_its_way = whole.then_some(catalog);
    }

    /// A catalog says nothing that the other side doesn't have, and no response is on its way.
    pub fn nothing_to_say(&mut self, catalog: u64) {
        self.answered = self.answered.max(catalog);
    }

    /// The response on its way was accepted or refused.
    pub fn answered(&mut self) {
        if let Some(catalog) = self.on_its_way.take() {
            self.answered = self.answered.max(catalog);
        }
    }

    /// The newest catalog that is answered as a whole; 0: none.
    pub fn catalog(self) -> u64 {
        self.answered
    }
}

#[cfg(test)]
mod tests {
    use super::Progress;

    #[test]
    fn a_catalog_is_answered_when_all_of_it_is() {
        let mut progress = Progress::default();
        progress.sent(3, false);
        progress.answered();
        assert_eq!(progress.catalog(), 0);
        progress.sent(3, true);
        assert_eq!(progress.catalog(), 0);
        progress.answered();
        assert_eq!(progress.catalog(), 3);
        // Newer ones come while it waits; what was sent before them counts.
        progress.sent(5, true);
        progress.answered();
        progress.sent(9, true);
        assert_eq!(progress.catalog(), 5);
        progress.answered();
        progress.nothing_to_say(12);
        assert_eq!(progress.catalog(), 12);
    }
}
