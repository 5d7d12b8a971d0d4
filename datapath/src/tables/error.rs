// SPDX-License-Identifier: Apache-2.0
//! Why tables are refused.
#![forbid(unsafe_code)]

/// Why a change of the tables is refused. Nothing has changed: the tables it started from stay as they are.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
#[non_exhaustive]
pub enum TableError {
    /// More of something than the switch holds.
    #[error("{object}: {value} {what}, but the switch holds at most {limit}; remove some first")]
    Limit {
        /// The object that is one too many, such as `route 10.0.0.0/8 (vrf 0)`.
        object: String,
        /// What there is too much of, in the plural.
        what: &'static str,
        /// How many there would be.
        value: usize,
        /// How many there may be.
        limit: usize,
    },
    /// A value that can never be right.
    #[error("{object}: {field} {value} {problem}")]
    Invalid {
        /// The object.
        object: String,
        /// The field.
        field: &'static str,
        /// Its value.
        value: String,
        /// What is wrong with it and what would be right.
        problem: String,
    },
    /// Two objects that exclude one another.
    #[error("{object}: {field} {value} is taken by {holder}")]
    Conflict {
        /// The object.
        object: String,
        /// The field.
        field: &'static str,
        /// Its value.
        value: String,
        /// The object that has it already.
        holder: String,
    },
    /// A reference to an object that there is not, or not any more, or not of the right kind.
    #[error("{object} needs {needs}; {hint}")]
    Dangling {
        /// The object.
        object: String,
        /// What it refers to.
        needs: String,
        /// What to do.
        hint: &'static str,
    },
}

impl TableError {
    pub(crate) fn limit(
        object: impl ToString,
        what: &'static str,
        value: usize,
        limit: usize,
    ) -> Self {
        TableError::Limit {
            object: object.to_string(),
            what,
            value,
            limit,
        }
    }

    pub(crate) fn invalid(
        object: impl ToString,
        field: &'static str,
        value: impl ToString,
        problem: impl ToString,
    ) -> Self {
        TableError::Invalid {
            object: object.to_string(),
            field,
            value: value.to_string(),
            problem: problem.to_string(),
        }
    }

    pub(crate) fn conflict(
        object: impl ToString,
        field: &'static str,
        value: impl ToString,
        holder: impl ToString,
    ) -> Self {
        TableError::Conflict {
            object: object.to_string(),
            field,
            value: value.to_string(),
            holder: holder.to_string(),
        }
    }

    pub(crate) fn dangling(
        object: impl ToString,
        needs: impl ToString,
        hint: &'static str,
    ) -> Self {
        TableError::Dangling {
            object: object.to_string(),
            needs: needs.to_string(),
            hint,
        }
    }
}
