//! The macro that makes the types, and a row for each option, from the table. It names types as
//! the table imports them.

/// Each option is written `NAME FIELD: TYPE = (KIND, DEFAULT) { ROW }`. `binhosts` have one value for
/// each binhost and are resolved there; those that have no default of their own leave it out. The
/// values of `mount` are [`MountOptions`](super::MountOptions).
macro_rules! define_options {
    (
        binhosts { $($binhost_name:literal $of_binhost:ident: $binhost_type:ty = ($binhost_kind:expr $(, $binhost_default:expr)?) { $($binhost_row:tt)* })* }
        mount { $($mount_name:literal $of_mount:ident: $mount_type:ty = ($mount_kind:expr, $mount_default:expr) { $($mount_row:tt)* })* }
        command_line { $($words_name:literal $of_words:ident: $words_type:ty = ($words_kind:expr) { $($words_row:tt)* })* }
    ) => {
        /// What one source says: the command line, binhostfs.toml, one of its tables, or Portage.
        /// `None`: it says nothing of that.
        #[derive(Debug, Clone, Default)]
        pub(crate) struct Settings {
            $(pub(crate) $of_binhost: Option<Sourced<$binhost_type>>,)*
            $(pub(crate) $of_mount: Option<Sourced<$mount_type>>,)*
            $(pub(crate) $of_words: Option<Sourced<$words_type>>,)*
        }

        /// The values of the options that concern the whole mount.
        #[derive(Debug, Clone)]
        pub(crate) struct MountOptions {
            $(pub(crate) $of_mount: $mount_type,)*
        }

        impl MountOptions {
            /// Takes each value from the first source that has one, and notes it in the report.
            pub(in crate::config) fn resolve(sources: &[&Settings], report: &mut Report) -> Self {
                Self { $($of_mount: Typed::$of_mount().resolve(sources, "", report),)* }
            }
        }

        /// Each option with its type, by the name of its field.
        pub(in crate::config) struct Typed;

        impl Typed {
            $($(
                pub(in crate::config) const fn $of_binhost() -> TypedOption<$binhost_type> {
                    TypedOption {
                        name: $binhost_name,
                        kind: $binhost_kind,
                        default: || $binhost_default,
                        get: |settings| settings.$of_binhost.as_ref(),
                    }
                }
            )?)*
            $(
                const fn $of_mount() -> TypedOption<$mount_type> {
                    TypedOption {
                        name: $mount_name,
                        kind: $mount_kind,
                        default: || $mount_default,
                        get: |settings| settings.$of_mount.as_ref(),
                    }
                }
            )*
        }

        /// All options, in the order of help and documentation.
        pub static OPTIONS: &[OptionRow] = &[
            $({
                const KIND: Kind<$binhost_type> = $binhost_kind;
                OptionRow {
                    info: OptionInfo { $($binhost_row)* ..OptionInfo::named($binhost_name) },
                    said: concat!("--", $binhost_name),
                    input: KIND.input,
                    default: || None$(.or_else(|| Some((KIND.write)(&$binhost_default))))?,
                    set_text: |settings, text, said| put(&KIND, &mut settings.$of_binhost, text, said),
                    set_toml: |settings, table, name| Ok(settings.$of_binhost = table.get(name, KIND.toml)?),
                    differs: |_, _| false,
                }
            },)*
            $({
                const KIND: Kind<$mount_type> = $mount_kind;
                OptionRow {
                    info: OptionInfo { scope: Scope::Mount, $($mount_row)* ..OptionInfo::named($mount_name) },
                    said: concat!("--", $mount_name),
                    input: KIND.input,
                    default: || Some((KIND.write)(&$mount_default)),
                    set_text: |settings, text, said| put(&KIND, &mut settings.$of_mount, text, said),
                    set_toml: |settings, table, name| Ok(settings.$of_mount = table.get(name, KIND.toml)?),
                    differs: |one, other| one.$of_mount != other.$of_mount,
                }
            },)*
            $({
                const KIND: Kind<$words_type> = $words_kind;
                OptionRow {
                    info: OptionInfo { scope: Scope::CommandLine, $($words_row)* ..OptionInfo::named($words_name) },
                    said: concat!("--", $words_name),
                    input: KIND.input,
                    default: || None,
                    set_text: |settings, text, said| put(&KIND, &mut settings.$of_words, text, said),
                    set_toml: |_, _, _| Ok(()),
                    differs: |_, _| false,
                }
            },)*
        ];
    };
}

pub(super) use define_options;
