"""Who a player is, which rank they hold and how many points they earned."""
