//! What a choice is made from besides the request.
//!
//! Enters: a view, draws and the wall clock, of a data-plane thread or of whoever explains what that would choose. Leaves: the same, to the
//! code that chooses, which cannot tell the two apart. Never: anything that changes.

use std::cell::RefCell;

use rand::rngs::StdRng;

use crate::view::View;

/// View, draws and wall clock.
#[derive(Clone, Copy)]
pub struct Scene<'a> {
    /// What is known of the mesh.
    pub view: &'a View,
    /// Where draws come from.
    pub draws: &'a RefCell<StdRng>,
    /// Tells the seconds since 1970; few choices ask.
    pub wall: &'a dyn Fn() -> u32,
}

impl Scene<'_> {
    /// Calls `with` with the source of randomness.
    pub fn random<T>(&self, with: impl FnOnce(&mut StdRng) -> T) -> T {
        with(&mut self.draws.borrow_mut())
    }
}
