"""The look, in one place: Gradio's theme variables, for light and dark.

`static/style.css` uses these variables, with few colors of its own. Fonts are the system's: a plain string in
Gradio's font lists is used as it is, where a `Font` object would be fetched or served.
"""

from __future__ import annotations

from typing import Any

import gradio as gr

FONTS = ["-apple-system", "BlinkMacSystemFont", "Segoe UI", "Roboto", "Helvetica Neue", "Arial", "sans-serif"]
MONO_FONTS = ["ui-monospace", "SFMono-Regular", "Menlo", "Consolas", "Liberation Mono", "monospace"]

# Each row is one part of the page: the theme variables it sets, its color in the light and in the dark.
_COLORS: tuple[tuple[tuple[str, ...], str, str], ...] = (
    (("body_background_fill",), "#f6f6f3", "#0f1312"),
    (("background_fill_primary", "block_background_fill", "panel_background_fill"), "#ffffff", "#171c1b"),
    (("background_fill_secondary", "table_even_background_fill", "code_background_fill"), "#f3f4f1", "#1d2322"),
    (
        ("body_text_color", "block_title_text_color", "block_label_text_color", "accordion_text_color"),
        "#191d1c",
        "#e8ecea",
    ),
    (("checkbox_label_text_color", "button_secondary_text_color"), "#191d1c", "#e8ecea"),
    (("body_text_color_subdued", "block_info_text_color"), "#5a6461", "#9da8a4"),
    (("border_color_primary", "block_border_color", "panel_border_color"), "#e2e4df", "#2a3230"),
    (("input_border_color", "checkbox_border_color", "button_secondary_border_color"), "#cfd3cd", "#3a4441"),
    (("input_background_fill", "checkbox_background_color"), "#ffffff", "#121716"),
    (("checkbox_label_background_fill", "button_secondary_background_fill"), "#ffffff", "#1d2322"),
    (("checkbox_label_background_fill_hover", "button_secondary_background_fill_hover"), "#f3f4f1", "#252d2b"),
    (("color_accent_soft", "checkbox_label_background_fill_selected"), "#e4f2ef", "#143330"),
    (("link_text_color", "link_text_color_visited", "slider_color", "border_color_accent"), "#0f766e", "#56c7b8"),
    (("link_text_color_hover", "link_text_color_active", "loader_color"), "#0b5b55", "#86dbcf"),
    (("input_border_color_focus", "checkbox_border_color_focus"), "#0f766e", "#56c7b8"),
    (("checkbox_background_color_selected", "checkbox_border_color_selected"), "#0f766e", "#2b9c8f"),
    (("checkbox_label_border_color_selected", "checkbox_label_border_color_hover"), "#0f766e", "#2b9c8f"),
    (("checkbox_label_text_color_selected",), "#0b5b55", "#a5e6dc"),
    (("button_primary_background_fill", "button_primary_border_color"), "#0f766e", "#56c7b8"),
    (("button_primary_background_fill_hover", "button_primary_border_color_hover"), "#0b5b55", "#7ad6ca"),
    (("button_primary_text_color",), "#ffffff", "#06211d"),
    (("button_cancel_background_fill",), "#ffffff", "#1d2322"),
    (("button_cancel_background_fill_hover", "error_background_fill"), "#fdf0ee", "#331a17"),
    (("button_cancel_border_color", "error_border_color"), "#e6b8b2", "#6e332c"),
    (("button_cancel_text_color", "error_text_color"), "#a3251a", "#f3a59c"),
    (("input_placeholder_color",), "#6d7673", "#8b9692"),
)

_SIZES = {
    "block_border_width": "0px",
    "block_shadow": "none",
    "block_padding": "0px",
    "block_label_background_fill": "transparent",
    "block_label_border_width": "0px",
    "block_title_text_weight": "600",
    "block_info_text_size": "*text_sm",
    "panel_border_width": "0px",
    "form_gap_width": "0px",
    "layout_gap": "18px",
    "input_border_width": "1px",
    "input_shadow": "none",
    "input_shadow_focus": "0 0 0 3px *color_accent_soft",
    "input_radius": "9px",
    "input_padding": "9px 12px",
    "checkbox_shadow": "none",
    "checkbox_label_shadow": "none",
    "checkbox_label_padding": "7px 12px",
    "checkbox_label_border_width": "1px",
    "checkbox_border_radius": "5px",
    "button_border_width": "1px",
    "button_large_radius": "9px",
    "button_medium_radius": "9px",
    "button_small_radius": "8px",
    "button_large_text_weight": "600",
    "button_medium_text_weight": "600",
    "button_small_text_weight": "500",
    "button_large_text_size": "*text_md",
    "button_primary_shadow": "none",
    "button_transition": "background-color 0.12s, border-color 0.12s",
    "stat_background_fill": "*color_accent_soft",
    "color_accent": "var(--link-text-color)",
}


def theme() -> gr.themes.Base:
    """Gradio's base theme in the workbench's colors, sizes and fonts."""
    values: dict[str, Any] = dict(_SIZES)
    has_dark = gr.themes.Base.set.__kwdefaults__ or {}
    for names, light, dark in _COLORS:
        for name in names:
            values[name] = light
            if f"{name}_dark" in has_dark:
                values[f"{name}_dark"] = dark
    return gr.themes.Base(font=FONTS, font_mono=MONO_FONTS, text_size=gr.themes.sizes.text_md).set(**values)
