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


def theme() -> gr.themes.Base:
    """Return paper and ink, and one warm colour for what is to be pressed."""
    return gr.themes.Base(
        primary_hue="orange",
        neutral_hue="stone",
        radius_size="md",
        font=FONT,
        font_mono=["ui-monospace", "monospace"],
    ).set(
        body_background_fill="#fbfaf7",
        body_background_fill_dark="#151312",
        background_fill_primary="#ffffff",
        background_fill_primary_dark="#1e1b19",
        background_fill_secondary="#f3f0ea",
        background_fill_secondary_dark="#272320",
        body_text_color="#1c1917",
        body_text_color_dark="#f5f2ee",
        body_text_color_subdued="#5c5650",
        body_text_color_subdued_dark="#b5aca3",
        border_color_primary="#e2ddd5",
        border_color_primary_dark="#3a3531",
        color_accent_soft="#fdeee3",
        color_accent_soft_dark="#43291a",
        block_background_fill="transparent",
        block_background_fill_dark="transparent",
        block_border_width="0px",
        block_label_background_fill="transparent",
        block_label_background_fill_dark="transparent",
        block_label_text_color="*body_text_color_subdued",
        block_label_text_color_dark="*body_text_color_subdued",
        block_title_text_color="*body_text_color_subdued",
        block_title_text_color_dark="*body_text_color_subdued",
        block_info_text_color="*body_text_color_subdued",
        block_info_text_color_dark="*body_text_color_subdued",
        block_title_text_size="*text_sm",
        block_padding="0.35rem 0.5rem",
        form_gap_width="0px",
        input_background_fill="*background_fill_primary",
        input_background_fill_dark="*background_fill_primary",
        input_border_width="1px",
        input_border_color="#c9c2b8",
        input_border_color_dark="#57504a",
        input_placeholder_color="#6b645d",
        input_placeholder_color_dark="#a39a91",
        checkbox_label_background_fill="*background_fill_primary",
        checkbox_label_background_fill_dark="*background_fill_primary",
        checkbox_background_color_selected="#b4400f",
        checkbox_background_color_selected_dark="#f0883e",
        checkbox_border_color="#8a8178",
        checkbox_border_color_dark="#8a8178",
        button_primary_background_fill="#b4400f",
        button_primary_background_fill_hover="#93330a",
        button_primary_background_fill_dark="#f0883e",
        button_primary_background_fill_hover_dark="#f7a566",
        button_primary_text_color="#ffffff",
        button_primary_text_color_dark="#1c1917",
        button_secondary_background_fill="*background_fill_secondary",
        button_secondary_background_fill_dark="*background_fill_secondary",
        button_secondary_background_fill_hover="*border_color_primary",
        button_secondary_background_fill_hover_dark="*border_color_primary",
        button_secondary_text_color="*body_text_color",
        button_secondary_text_color_dark="*body_text_color",
        slider_color="#b4400f",
        slider_color_dark="#f0883e",
        link_text_color="#93330a",
        link_text_color_dark="#f7a566",
        link_text_color_hover="#93330a",
        link_text_color_hover_dark="#f7a566",
    )
