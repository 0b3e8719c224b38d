"""Ways into a store: folders and tables of audio with texts, and exports of Label Studio."""
