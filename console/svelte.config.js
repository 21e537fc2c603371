// Tables and texts that scroll can be reached by the keyboard, which needs a tab stop on what is no control.
const wanted = "a11y_no_noninteractive_tabindex";

export default {
  compilerOptions: { runes: true, warningFilter: (warning) => warning.code !== wanted },
};
