"""What a controller shows: the board, the HTTP API, the metrics and the live page.

Everything here reads one view model, the board, and commands nothing: operators act over MQTT.
"""
