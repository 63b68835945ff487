"""What the page looks like, as far as gradio's own components are concerned, and its header."""

import gradio as gr

HEADER = """
<header class="top">
  <h1>Salon</h1>
  <button type="button" class="quiet-button" id="dark-switch" aria-pressed="false">Dark</button>
</header>
"""
SETTINGS_SWITCH = """
<button type="button" class="quiet-button" data-toggle="settings" aria-expanded="false"
  aria-controls="settings">Settings</button>
"""
FONT = ["system-ui", "sans-serif"]
# gradio's variables, by day and by night.
COLOURS = {
    "body_background_fill": ("#fbfaf7", "#151312"),
    "background_fill_primary": ("#ffffff", "#1e1b19"),
    "background_fill_secondary": ("#f3f0ea", "#272320"),
    "body_text_color": ("#1c1917", "#f5f2ee"),
    "body_text_color_subdued": ("#5c5650", "#b5aca3"),
    "border_color_primary": ("#e2ddd5", "#3a3531"),
    "color_accent_soft": ("#fdeee3", "#43291a"),
    "block_background_fill": ("transparent", "transparent"),
    "block_label_background_fill": ("transparent", "transparent"),
    "block_label_text_color": ("*body_text_color_subdued", "*body_text_color_subdued"),
    "block_title_text_color": ("*body_text_color_subdued", "*body_text_color_subdued"),
    "block_info_text_color": ("*body_text_color_subdued", "*body_text_color_subdued"),
    "input_background_fill": ("*background_fill_primary", "*background_fill_primary"),
    "input_border_color": ("#c9c2b8", "#57504a"),
    "input_placeholder_color": ("#6b645d", "#a39a91"),
    "checkbox_label_background_fill": ("*background_fill_primary", "*background_fill_primary"),
    "checkbox_background_color_selected": ("#b4400f", "#f0883e"),
    "checkbox_border_color": ("#8a8178", "#8a8178"),
    "button_primary_background_fill": ("#b4400f", "#f0883e"),
    "button_primary_background_fill_hover": ("#93330a", "#f7a566"),
    "button_primary_text_color": ("#ffffff", "#1c1917"),
    "button_secondary_background_fill": (
        "*background_fill_secondary",
        "*background_fill_secondary",
    ),
    "button_secondary_background_fill_hover": ("*border_color_primary", "*border_color_primary"),
    "button_secondary_text_color": ("*body_text_color", "*body_text_color"),
    "slider_color": ("#b4400f", "#f0883e"),
    "link_text_color": ("#93330a", "#f7a566"),
    "link_text_color_hover": ("#93330a", "#f7a566"),
}
SIZES = {
    "block_border_width": "0px",
    "block_title_text_size": "*text_sm",
    "block_padding": "0.35rem 0.5rem",
    "form_gap_width": "0px",
    "input_border_width": "1px",
}


def theme() -> gr.themes.Base:
    """Return paper and ink, and one warm colour for what is to be pressed."""
    by_day = {name: day for name, (day, _) in COLOURS.items()}
    by_night = {f"{name}_dark": night for name, (_, night) in COLOURS.items()}
    return gr.themes.Base(
        primary_hue="orange",
        neutral_hue="stone",
        radius_size="md",
        font=FONT,
        font_mono=["ui-monospace", "monospace"],
    ).set(**SIZES, **by_day, **by_night)
