//! Enums whose variants are named in logs, metrics and the documentation.

/// Declares an enum, and makes the documentation of each variant available to the program: the tables in docs/ are
/// generated from it.
macro_rules! labeled_enum {
    (
        $(#[$attribute:meta])*
        pub enum $name:ident {
            $($(#[doc = $meaning:literal])+ $variant:ident = $label:literal,)+
        }
    ) => {
        $(#[$attribute])*
        pub enum $name {
            $($(#[doc = $meaning])+ $variant,)+
        }

        impl $name {
            pub const ALL: [Self; [$(Self::$variant),+].len()] = [$(Self::$variant),+];

            /// The name in logs and metrics.
            pub const fn label(self) -> &'static str {
                match self {
                    $(Self::$variant => $label,)+
                }
            }

            /// The description, in sentences.
            pub const fn meaning(self) -> &'static str {
                match self {
                    $(Self::$variant => concat!($($meaning),+).trim_ascii(),)+
                }
            }
        }
    };
}
pub(super) use labeled_enum;
