"""Engines that keep sealed rows and postings."""
