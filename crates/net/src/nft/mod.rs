//! The packet filter: what our table shall be ([`rules`]), and putting it into the kernel ([`table`]).
//!
//! * [`expr`]: the expressions that rules are made of.

mod expr;
pub(crate) mod rules;
pub(crate) mod table;
