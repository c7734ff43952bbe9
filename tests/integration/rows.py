"""Devices by the thousand, put into PostgreSQL as device-registry would."""
import uuid

# Newest last. A record id is the second of the registration and a counter; both grow with the number.
INSERT = """
INSERT INTO registry.device (device_key, record_id, device_id, node_id, device_name, app_id, product_key, root_id, depth,
    partition, auth_type, secret, created, updated, status)
SELECT nextval('registry.device_key'), lpad(to_hex((extract(epoch FROM now())::bigint - {age} + g / 1000)), 8, '0')
    || lpad(to_hex(g), 8, '0') || '{mark}', p.product_id || '_{mark}' || g, '{mark}' || g, 'name' || g % 1000, p.app_id, p.product_key,
    p.product_id || '_{mark}' || g, 0, g % 8, 'SECRET', {secret},
    to_timestamp(extract(epoch FROM now())::bigint - {age} + g / 1000), now(), 'INACTIVE'
FROM registry.product p, generate_series(1, {n}) g WHERE p.product_id = '{product}'
"""


def load(platform, product, n, age=100000, secret="NULL"):
    """n devices of a product; returns what their node ids begin with."""
    mark = uuid.uuid4().hex[:8]
    platform.sql(INSERT.format(age=age, mark=mark, n=n, product=product, secret=secret))
    return mark
